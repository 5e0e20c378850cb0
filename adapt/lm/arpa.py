"""ARPA files: whose words are token ids in decimals, or, as NeMo writes them, the character `chr(id + 100)`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapt.errors import DataError
from adapt.text.corpus import read_bytes

BEGIN, END, UNKNOWN = -1, -2, -3  # <s>, </s> and <unk> among the token ids
NEMO_OFFSET = 100
_CJK = 0x2E80
_NO_IDS = {
    "words": "its words are no token ids; it serves --decoder ctc, or make one of tokens with `adapt lm`",
    "binary": "a binary of KenLM; give the ARPA that it was built from",
}
_SPECIAL = {b"<s>": BEGIN, b"</s>": END, b"<unk>": UNKNOWN, b"<UNK>": UNKNOWN}


@dataclass(frozen=True)
class Arpa:
    """By order: token ids `[n, order]` (`BEGIN`, `END`, `UNKNOWN`), natural log probabilities and back-offs `[n]`."""

    tokens: tuple[np.ndarray, ...]
    logs: tuple[np.ndarray, ...]
    backoffs: tuple[np.ndarray, ...]


def kind(path: str | os.PathLike) -> str:
    """`ids`, `nemo` or `words`, by the unigrams; `binary` for a file that KenLM built.

    Raises DataError when there is no such file, or it is nothing of these.
    """
    with Path(path).open("rb") if Path(path).is_file() else _missing(path) as file:
        if file.read(52).startswith(b"mmap lm http://kheafield.com/code format version"):
            return "binary"
    found = words(path)
    if not found:
        raise DataError(f"{path}: holds no word; estimate it from text that is not empty")
    if all(word.isascii() and word.isdigit() for word in found):
        return "ids"
    characters = all(len(word) == 1 and ord(word) >= NEMO_OFFSET for word in found)
    # Characters from there up alone are words of Chinese: a tokenizer's first ids are always in a model of NeMo's.
    return "nemo" if characters and min(map(ord, found)) < _CJK else "words"


def read_arpa(path: str | os.PathLike) -> Arpa:
    """Read an ARPA of token ids, in either way of writing them.

    Raises DataError for what is no such file: a binary of KenLM, an ARPA of words, a broken one.
    """
    found = kind(path)
    if found in _NO_IDS:
        raise DataError(f"{path}: {_NO_IDS[found]}")
    sizes, sections = _sections(path)
    tokens, logs, backoffs = [], [], []
    for order, (size, text) in enumerate(zip(sizes, sections, strict=True), 1):
        text = b"\n".join(map(_decimal, text.split(b"\n"))) if found == "nemo" else text
        table = _table(path, order, size, text, highest=order == len(sizes))
        tokens.append(table[:, 1 : 1 + order].astype(np.int64))
        logs.append(table[:, 0] * np.log(10))
        backoffs.append(table[:, -1] * np.log(10) if table.shape[1] > order + 1 else np.zeros(size))
    return Arpa(tuple(tokens), tuple(logs), tuple(backoffs))


def to_decimals(path: str | os.PathLike, out: str | os.PathLike) -> None:
    """Copy an ARPA of token ids, with its ids in decimals. Raises DataError for an ARPA of words, or none."""
    found = kind(path)
    if found not in ("ids", "nemo"):
        raise DataError(f"{path}: {_NO_IDS[found]}")
    lines = read_bytes(path).split(b"\n")
    order = 0  # that of the header
    with open(out, "wb") as copy:
        for line in lines:
            if section := re.match(rb"\\(\d+)-grams:", line):
                order = int(section[1])
            elif found == "nemo" and order and line.strip() and not line.startswith(b"\\"):
                log, *rest = _decimal(line).split()
                line = b"\t".join([log, b" ".join(rest[:order]), *rest[order:]])
            copy.write(line + b"\n")


def words(path: str | os.PathLike) -> list[str]:
    """The words of an ARPA's unigrams, `<s>`, `</s>` and `<unk>` left out."""
    _, (unigrams, *_) = _sections(path)
    rows = (line.split() for line in unigrams.split(b"\n"))
    try:
        return [row[1].decode("utf-8") for row in rows if len(row) > 1 and row[1] not in _SPECIAL]
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8; save it as UTF-8") from None


def _missing(path: str | os.PathLike):
    raise DataError(f"{path}: no such file; `adapt lm RECIPE` writes one")


def _sections(path: str | os.PathLike) -> tuple[list[int], list[bytes]]:
    """The number of n-grams that the header names, and the text that lists them, of each order."""
    content = read_bytes(path)
    header, _, rest = content.partition(b"\\1-grams:")
    sizes = [int(size) for size in re.findall(rb"^ngram +\d+ *= *(\d+)", header, re.M)]
    if not sizes or not rest:
        raise DataError(f"{path}: not an ARPA file; it begins with \\data\\ and lists \\1-grams:")
    body, end, _ = rest.rpartition(b"\\end\\")
    if not end:
        raise DataError(f"{path}: ends before \\end\\; write it again")
    parts = re.split(rb"\\\d+-grams:", body)
    if len(parts) != len(sizes):
        raise DataError(f"{path}: announces {len(sizes)} orders and holds {len(parts)}; write it again")
    return sizes, [part.strip() for part in parts]


def _table(path: str | os.PathLike, order: int, size: int, text: bytes, highest: bool) -> np.ndarray:
    """Log10 probability, tokens and, below the highest order, back-off of each n-gram; a back-off left out is 0."""
    fields = order + 1 if highest else order + 2
    for word, number in _SPECIAL.items():
        text = text.replace(word, b"%d" % number)
    try:
        table = np.fromstring(text, sep=" ") if text else np.empty(0)
        if table.size != size * fields:
            rows = [line.split() for line in text.split(b"\n") if line.strip()]
            # A back-off of 0 may be left out, and may stand where none belongs.
            rows = [[*row, b"0"][:fields] if len(row) in (order + 1, order + 2) else row for row in rows]
            if len(rows) != size or any(len(row) != fields for row in rows):
                raise DataError(f"{path}: its {order}-grams are not the {size:,} that it announces; write it again")
            table = np.array(rows).astype(float)
    except ValueError:
        raise DataError(f"{path}: its {order}-grams hold what is no number; write it again") from None
    return table.reshape(size, fields)


def _decimal(line: bytes) -> bytes:
    """A line of NeMo's with its tokens in decimals and a space between its fields."""
    # Split as bytes: some of these characters are white space elsewhere in Unicode.
    words = [word.decode("utf-8") for word in line.split()]
    words = [str(ord(w) - NEMO_OFFSET) if len(w) == 1 and ord(w) >= NEMO_OFFSET else w for w in words]
    return " ".join(words).encode()
