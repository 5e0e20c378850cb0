"""Lexicons (entity lists, one entry per line; a plain list of phrases is one too), and mentions of their entities."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapt.errors import DataError
from adapt.text.corpus import Entity, Utterance, read_bytes, read_lines

COLUMNS = ("written", "type", "spoken", "weight")

_HEADINGS = {"type", "spoken", "weight", "name", "entity", "phrase", "category", "class", "label", "pronunciation"}
_COMMENT = re.compile(r"#(\s|#|$)")
log = logging.getLogger(__name__)

Phrase = tuple[str, ...]


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


@dataclass(frozen=True)
class Mention:
    """One occurrence of an entity: words `start` to `end` (exclusive) of a normalised sentence."""

    start: int
    end: int
    type: str
    written: str


@dataclass(frozen=True)
class PhraseIndex:
    """A lexicon as `find_mentions` searches it.

    entries: the entry of each normalised phrase. forms: all forms of the entity of each phrase. lengths: by first word,
    the lengths of the phrases in words, longest first.
    """

    entries: dict[Phrase, Entry]
    forms: dict[Phrase, frozenset[Phrase]]
    lengths: dict[str, tuple[int, ...]]


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


def _is_comma_separated(path: Path, first: str) -> bool:
    """Whether a lexicon has commas between its fields, judged by its name and its first line."""
    cells = [cell.strip(' "').lower() for cell in first.split(",")]
    named = ".csv" in path.suffixes or (len(cells) > 1 and not {*COLUMNS, *_HEADINGS}.isdisjoint(cells))
    return named and "\t" not in first


def phrase_index(lexicon: Lexicon, normalise: Callable[[str], str]) -> PhraseIndex:
    """Index the written and spoken forms of a lexicon; a phrase of two entries belongs to the first."""
    entries: dict[Phrase, Entry] = {}
    forms: dict[Phrase, frozenset[Phrase]] = {}
    for entry in lexicon.entries:
        of_entry = frozenset(p for form in (entry.written, *entry.spoken) if (p := tuple(normalise(form).split())))
        for phrase in of_entry:
            entries.setdefault(phrase, entry)
            forms[phrase] = forms.get(phrase, frozenset()) | of_entry
    lengths: dict[str, set[int]] = {}
    for phrase in entries:
        lengths.setdefault(phrase[0], set()).add(len(phrase))
    return PhraseIndex(entries, forms, {w: tuple(sorted(n, reverse=True)) for w, n in lengths.items()})


def find_mentions(words: Sequence[str], phrases: PhraseIndex) -> list[Mention]:
    """Mentions in normalised words: left to right, longest match first, none overlapping.

    >>> lexicon = Lexicon("m", "", (Entry("Queen", "artist"), Entry("Dancing Queen", "track")))
    >>> find_mentions("play dancing queen by queen".split(), phrase_index(lexicon, str.lower))
    ... # doctest: +NORMALIZE_WHITESPACE
    [Mention(start=1, end=3, type='track', written='Dancing Queen'),
     Mention(start=4, end=5, type='artist', written='Queen')]
    """
    words, lengths = tuple(words), phrases.lengths
    mentions, end = [], 0
    for start in [i for i, word in enumerate(words) if word in lengths]:
        if start < end:
            continue
        for length in lengths[words[start]]:
            entry = phrases.entries.get(words[start : start + length])
            if entry and start + length <= len(words):
                end = start + length
                mentions.append(Mention(start, end, entry.type, entry.written))
                break
    return mentions


def place_entities(
    words: Sequence[str], entities: Iterable[Entity], normalise: Callable[[str], str]
) -> tuple[list[Mention], int]:
    """Find the words of annotated entities in a normalised reference.

    Returns their mentions in the order of the words, and the number of entities whose words the reference does not
    contain, or not often enough. Longer entities are placed first, so that "queen" does not take its word from "dancing
    queen".

    >>> entities = [Entity("Queen", "a"), Entity("Dancing Queen", "t")]
    >>> place_entities("dancing queen by queen".split(), entities, str.lower)
    ... # doctest: +NORMALIZE_WHITESPACE
    ([Mention(start=0, end=2, type='t', written='Dancing Queen'),
      Mention(start=3, end=4, type='a', written='Queen')], 0)
    """
    words = list(words)
    taken = [False] * len(words)
    mentions, unplaced = [], 0
    phrases = sorted(((normalise(e.text).split(), e) for e in entities), key=lambda pair: -len(pair[0]))
    for phrase, entity in phrases:
        size = len(phrase)
        for start in range(len(words) - size + 1 if size else 0):
            if words[start : start + size] == phrase and not any(taken[start : start + size]):
                taken[start : start + size] = [True] * size
                mentions.append(Mention(start, start + size, entity.type, entity.text))
                break
        else:
            unplaced += 1
    return sorted(mentions, key=lambda m: m.start), unplaced


def reference_mentions(
    words: Sequence[str], utterance: Utterance, index: PhraseIndex | None, normalise: Callable[[str], str]
) -> tuple[list[Mention], int]:
    """The mentions in the normalised words of a reference, and the number of its entities that have no place there.

    They are the annotated entities of the utterance or, if it is not annotated, those that the lexicon finds. index:
    None: no lexicon.
    """
    if utterance.entities is not None:
        return place_entities(words, utterance.entities, normalise)
    return (find_mentions(words, index) if index else []), 0


def entities_in(lines: Iterable[str], phrases: PhraseIndex, normalise: Callable[[str], str]) -> frozenset[str]:
    """Normalised written forms of the entities that occur in normalised lines (`seen` in `scoring.score_systems`)."""
    written = {mention.written for line in lines for mention in find_mentions(line.split(), phrases)}
    return frozenset(map(normalise, written))
