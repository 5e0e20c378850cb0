"""Read files as lines, lines as JSON objects, and YAML, with an error for each bad line.

What is read is bounded in length and depth, so that no file takes all memory or hours.
"""

from __future__ import annotations

import gzip
import json
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import yaml

from adapt.errors import DataError

LONGEST = 1_000_000  # bytes of a line, and of a YAML file
DEEPEST = 50  # levels of a YAML file
_WHOLE = LONGEST + 4  # bytes of the longest line with its line break and a byte order mark
PROBLEMS = 1000  # of a file that are collected: a large one may have one on each line


@contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked if its name ends in `.gz`. Raises DataError for a file that cannot be read."""
    try:
        with (gzip.open if Path(path).suffix == ".gz" else open)(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(f"{path}: not a whole gzip file; compress it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its rights") from None


def read_bytes(path: str | Path) -> bytes:
    """All bytes of a file, as `opened` gives and raises."""
    with opened(path) as file:
        return file.read()


def nfc(text: str) -> str:
    """The text in Unicode NFC: accents are composed with their letters."""
    return unicodedata.normalize("NFC", text)


def stream_lines(path: str | Path, form: Callable[[str], str] = nfc) -> Iterator[tuple[int, str]]:
    """Line numbers, from 1, and stripped lines of a UTF-8 file, without blank lines. One line is in memory at a time.

    form: applied to each line; it may raise a ValueError with a problem. Raises DataError at the end of the file, or
    after PROBLEMS of them, with every line that is not UTF-8 or that `form` refuses, and for a file that is not text.
    """
    problems: list[str] = []
    with opened(path) as file:
        # Bytes are split, not text: str.splitlines also splits at form feeds and U+2028, which would shift the numbers.
        for number, raw in enumerate(iter(lambda: file.readline(_WHOLE), b""), 1):
            if b"\0" in raw:
                raise DataError(f"{path}: not UTF-8 text; name a text file, or save it as UTF-8")
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            try:
                if len(raw) > LONGEST and (length := _length(raw, file)) > LONGEST:
                    raise ValueError(f"a line of {length:,} bytes; write lines of at most {LONGEST:,}")
                line = raw.decode("utf-8").strip("\r\n ")
                formed = form(line) if line.strip() else ""
            except UnicodeDecodeError as error:
                problem = f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
                problems.append(f"{path}:{number}: {problem}")
            except ValueError as problem:
                problems.append(f"{path}:{number}: {problem}")
            else:
                if formed:
                    yield number, formed
            if len(problems) == PROBLEMS:
                break
    if problems:
        raise DataError(*problems)


def _length(raw: bytes, file: BinaryIO) -> int:
    """The bytes of a line without its line break. raw: its beginning; the rest is read and dropped."""
    length = len(raw)
    while not raw.endswith(b"\n") and (more := file.readline(_WHOLE)):
        raw, length = more, length + len(more)
    return length - raw.endswith(b"\n")


def read_lines(path: str | Path, form: Callable[[str], str] = nfc) -> list[tuple[int, str]]:
    """All that `stream_lines` gives."""
    return list(stream_lines(path, form))


def json_row(line: str) -> tuple[dict | None, str | None]:
    """The JSON object of a line and no problem, or None and the problem."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return None, f"not JSON ({error.msg}, column {error.colno}); write one object a line"
    except RecursionError:
        return None, "JSON that is nested too deeply; write one flat object a line"
    if not isinstance(row, dict):
        return None, f'{line[:40]!r} is not an object; write {{"id": …, "text": …}}'
    if "\\ud" in line.lower() and re.search("[\ud800-\udfff]", json.dumps(row, ensure_ascii=False)):
        return None, "half of a pair of escapes (\\ud800 to \\udfff), which is no character; write both halves"
    return row, None


class _Bounded:
    """A loader of YAML for which aliases and more than DEEPEST levels are errors.

    An alias can stand for a list of aliases, and so on, until a small file means more than fits in memory.
    """

    depth = 0

    def compose_node(self, parent, index):
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias (`*name`); write out what it stands for", mark)
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"more than {DEEPEST} levels; write fewer", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class PlainLoader(_Bounded, yaml.BaseLoader):
    """Loads YAML in which every scalar is a text."""


class SafeLoader(_Bounded, yaml.SafeLoader):
    """Loads YAML as `yaml.safe_load` does."""


def is_id(key: object) -> bool:
    """Whether a JSON value can be an id: a text or a whole number."""
    return isinstance(key, str | int) and not isinstance(key, bool)
