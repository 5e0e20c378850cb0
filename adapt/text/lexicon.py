"""Lexicons: entity lists, one entry per line; a plain list of phrases is one too."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path

from adapt.errors import DataError
from adapt.text.files import read_bytes, read_lines

COLUMNS = ("written", "type", "spoken", "weight")

_HEADINGS = {"type", "spoken", "weight", "name", "entity", "phrase", "category", "class", "label", "pronunciation"}
_COMMENT = re.compile(r"#(\s|#|$)")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One entity: its written form, its type, its spoken forms, and a factor of its bonus in lexicon boosting."""

    written: str
    type: str = "term"
    spoken: tuple[str, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True)
class Lexicon:
    """Entries in file order; `sha` is the first 6 hex digits of the file's sha256, for signatures."""

    name: str
    sha: str
    entries: tuple[Entry, ...]


def read_lexicon(path: str | Path) -> Lexicon:
    """Read a lexicon TSV with the columns `written`, `type`, `spoken`, `weight`; all but the first are optional.

    A first line that starts with `written` names the columns, in any order. Several spoken forms are separated by `|`.
    Lines that start with `# ` are comments; an entity that starts with `#` is written `\\#`. An entity that occurs
    twice with the same type is used once, with a warning. Raises DataError with every bad line, and for a file that is
    separated by commas.
    """
    path = Path(path)
    columns: tuple[str, ...] = COLUMNS
    entries: dict[tuple[str, str], Entry] = {}
    problems: list[str] = []
    twice: list[str] = []
    lines = [(n, line) for n, line in read_lines(path) if not _COMMENT.match(line)]
    if lines and _is_comma_separated(path, lines[0][1]):
        raise DataError(f"{path}: is separated by commas; separate the fields by tabs")
    for position, (number, line) in enumerate(lines):
        place = f"{path}:{number}"
        if line.startswith("#"):
            problems.append(
                f"{place}: {line[:20]!r} may be a comment or an entity; write `# ` for a comment, `\\#` for an entity"
            )
            continue
        cells = tuple(cell.strip() for cell in line.removeprefix("\\").split("\t"))
        if position == 0 and cells[0] == "written":
            columns = cells
            for column in columns:
                if column not in COLUMNS or columns.count(column) > 1:
                    known = ", ".join(COLUMNS)
                    problems.append(f"{place}: unknown or repeated column {column!r}; use {known}, each once")
            continue
        if position == 0 and len(cells) > 1 and (named := [c for c in cells if c.lower() in _HEADINGS]):
            problems.append(
                f"{place}: {named[0]!r} reads like the heading of a column; name the columns {', '.join(COLUMNS)}"
            )
            continue
        if len(cells) > len(columns):
            problems.append(f"{place}: {len(cells)} fields; write at most {len(columns)} ({', '.join(columns)})")
            continue
        row = {column: cell for column, cell in zip(columns, cells, strict=False) if cell}
        if "written" not in row:
            problems.append(f"{place}: the field 'written' is empty; fill it or delete the line")
            continue
        try:
            weight = float(row.get("weight", "1"))
        except ValueError:
            weight = math.nan
        if not math.isfinite(weight):
            problems.append(f"{place}: weight {row['weight']!r} is not a number; write one (default 1)")
            continue
        spoken = tuple(form.strip() for form in row.get("spoken", "").split("|") if form.strip())
        entry = Entry(row["written"], row.get("type", "term"), spoken, weight)
        key = (entry.written, entry.type)
        if key in entries:
            twice.append(f"{place}: {key[0]!r} ({key[1]})")
        entries.setdefault(key, entry)
    if not entries and not problems:
        problems.append(f"{path}: holds no entries; write one phrase a line")
    if problems:
        raise DataError(*problems)
    if twice:
        log.warning("%s repeats an earlier entry and is left out; such lines: %d", twice[0], len(twice))
    sha = hashlib.sha256(read_bytes(path)).hexdigest()[:6]
    return Lexicon(path.stem, sha, tuple(entries.values()))


def as_line(phrase: str) -> str:
    r"""A phrase as a line of a lexicon, whose first letter is no sign of a comment.

    >>> as_line("#covid"), as_line("jolene")
    ('\\#covid', 'jolene')
    """
    return f"\\{phrase}" if phrase.startswith(("#", "\\")) else phrase


def _is_comma_separated(path: Path, first: str) -> bool:
    """Whether a lexicon has commas between its fields, judged by its name and its first line."""
    cells = [cell.strip(' "').lower() for cell in first.split(",")]
    named = ".csv" in path.suffixes or (len(cells) > 1 and not {*COLUMNS, *_HEADINGS}.isdisjoint(cells))
    return named and "\t" not in first
