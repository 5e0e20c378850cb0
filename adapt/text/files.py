"""Read files as lines, and lines as JSON objects, with an error for each bad line."""

from __future__ import annotations

import gzip
import json
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path

from adapt.errors import DataError


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file, unpacked if its name ends in `.gz`. Raises DataError for a file that cannot be read."""
    try:
        data = Path(path).read_bytes()
        return gzip.decompress(data) if Path(path).suffix == ".gz" else data
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(f"{path}: not a whole gzip file; compress it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its rights") from None


def nfc(text: str) -> str:
    """The text in Unicode NFC: accents are composed with their letters."""
    return unicodedata.normalize("NFC", text)


def read_lines(path: str | Path, form: Callable[[str], str] = nfc) -> list[tuple[int, str]]:
    """Line numbers, from 1, and stripped lines of a UTF-8 file, without blank lines. form: applied to each line.

    Raises DataError with every line that is not UTF-8, and for a file that is not text.
    """
    lines, problems, content = [], [], read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    if b"\0" in content:
        raise DataError(f"{path}: not UTF-8 text; name a text file, or save it as UTF-8")
    # Bytes are split, not text: str.splitlines also splits at form feeds and U+2028, which would shift the numbers.
    for number, raw in enumerate(content.split(b"\n"), 1):
        try:
            line = raw.decode("utf-8").strip("\r\n ")
        except UnicodeDecodeError as error:
            byte = raw[error.start]
            problems.append(f"{path}:{number}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8")
            continue
        if line.strip():
            lines.append((number, form(line)))
    if problems:
        raise DataError(*problems)
    return lines


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
    return row, None


def is_id(key: object) -> bool:
    """Whether a JSON value can be an id: a text or a whole number."""
    return isinstance(key, str | int) and not isinstance(key, bool)
