"""ARPA files over token ids, written as decimal numbers or, as NeMo does, as the character `chr(id + 100)`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapt.errors import DataError
from adapt.text.files import read_bytes

BEGIN, END, UNKNOWN = -1, -2, -3  # <s>, </s> and <unk> among the token ids
NEMO_OFFSET = 100
_CJK = 0x2E80  # the first code point of Chinese, Japanese and Korean characters
_NOT_TOKEN_IDS = {
    "words": "its words are not token ids; use it with --decoder ctc, or estimate one over token ids with `adapt lm`",
    "binary": "a binary of KenLM; give the ARPA that it was built from",
}
_SPECIAL = {b"<s>": BEGIN, b"</s>": END, b"<unk>": UNKNOWN, b"<UNK>": UNKNOWN}


@dataclass(frozen=True)
class Arpa:
    """An n-gram model, as one array for each order.

    tokens: `[n, order]`, token ids, `BEGIN`, `END` or `UNKNOWN`. logs, backoffs: `[n]`, natural logs.
    """

    tokens: tuple[np.ndarray, ...]
    logs: tuple[np.ndarray, ...]
    backoffs: tuple[np.ndarray, ...]


def kind(path: str | os.PathLike) -> str:
    """The kind of an LM file: `ids`, `nemo` or `words` by the unigrams of an ARPA, or `binary` for a binary of KenLM.

    Raises DataError for a missing file and for a file of another kind.
    """
    with Path(path).open("rb") if Path(path).is_file() else _missing(path) as file:
        if file.read(52).startswith(b"mmap lm http://kheafield.com/code format version"):
            return "binary"
    unigrams = words(path)
    if not unigrams:
        raise DataError(f"{path}: lists no words; estimate it from text that is not empty")
    if all(word.isascii() and word.isdigit() for word in unigrams):
        return "ids"
    characters = all(len(word) == 1 and ord(word) >= NEMO_OFFSET for word in unigrams)
    # One-character words from _CJK up, and no others, are Chinese words: a NeMo model always lists low token ids too.
    return "nemo" if characters and min(map(ord, unigrams)) < _CJK else "words"


def read_arpa(path: str | os.PathLike) -> Arpa:
    """Read an ARPA of token ids, of kind `ids` or `nemo`.

    Raises DataError for a binary of KenLM, an ARPA of words and a broken file.
    """
    file_kind = kind(path)
    if file_kind in _NOT_TOKEN_IDS:
        raise DataError(f"{path}: {_NOT_TOKEN_IDS[file_kind]}")
    sizes, sections = _sections(path)
    tokens, logs, backoffs = [], [], []
    for order, (size, text) in enumerate(zip(sizes, sections, strict=True), 1):
        text = b"\n".join(map(_decimal, text.split(b"\n"))) if file_kind == "nemo" else text
        table = _table(path, order, size, text, highest=order == len(sizes))
        tokens.append(table[:, 1 : 1 + order].astype(np.int64))
        logs.append(table[:, 0] * np.log(10))
        backoffs.append(table[:, -1] * np.log(10) if table.shape[1] > order + 1 else np.zeros(size))
    return Arpa(tuple(tokens), tuple(logs), tuple(backoffs))


def to_decimals(path: str | os.PathLike, out: str | os.PathLike) -> None:
    """Copy an ARPA of token ids, with the ids as decimal numbers. Raises DataError for any other file."""
    file_kind = kind(path)
    if file_kind not in ("ids", "nemo"):
        raise DataError(f"{path}: {_NOT_TOKEN_IDS[file_kind]}")
    lines = read_bytes(path).split(b"\n")
    order = 0  # of the section of the line; 0 in the header
    with open(out, "wb") as copy:
        for line in lines:
            if section := re.match(rb"\\(\d+)-grams:", line):
                order = int(section[1])
            elif file_kind == "nemo" and order and line.strip() and not line.startswith(b"\\"):
                log, *rest = _decimal(line).split()
                line = b"\t".join([log, b" ".join(rest[:order]), *rest[order:]])
            copy.write(line + b"\n")


def words(path: str | os.PathLike) -> list[str]:
    """The words of an ARPA's unigrams, without `<s>`, `</s>` and `<unk>`. Raises DataError for a broken file."""
    _, (unigrams, *_) = _sections(path)
    rows = (line.split() for line in unigrams.split(b"\n"))
    try:
        return [row[1].decode("utf-8") for row in rows if len(row) > 1 and row[1] not in _SPECIAL]
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8; save it as UTF-8") from None


def _missing(path: str | os.PathLike):
    """Raises DataError for a file that does not exist."""
    raise DataError(f"{path}: no such file; `adapt lm RECIPE` writes one")


def _sections(path: str | os.PathLike) -> tuple[list[int], list[bytes]]:
    """For each order, the number of n-grams by the header, and their lines. Raises DataError for other files."""
    content = read_bytes(path)
    header, _, rest = content.partition(b"\\1-grams:")
    sizes = [int(size) for size in re.findall(rb"^ngram +\d+ *= *(\d+)", header, re.M)]
    if not sizes or not rest:
        raise DataError(f"{path}: not an ARPA file; give one that begins with \\data\\ and lists \\1-grams:")
    body, end, _ = rest.rpartition(b"\\end\\")
    if not end:
        raise DataError(f"{path}: ends before \\end\\; write it again")
    parts = re.split(rb"\\\d+-grams:", body)
    if len(parts) != len(sizes):
        raise DataError(f"{path}: announces {len(sizes)} orders, but holds {len(parts)}; write it again")
    return sizes, [part.strip() for part in parts]


def _table(path: str | os.PathLike, order: int, size: int, text: bytes, highest: bool) -> np.ndarray:
    """Log10 probability, tokens and, below the highest order, back-off of each n-gram; a missing back-off is 0."""
    fields = order + 1 if highest else order + 2
    for word, number in _SPECIAL.items():
        text = text.replace(word, b"%d" % number)
    try:
        table = np.fromstring(text, sep=" ") if text else np.empty(0)
        if table.size != size * fields:
            rows = [line.split() for line in text.split(b"\n") if line.strip()]
            # A back-off of 0 may be missing, and n-grams of the highest order may have one, which is ignored.
            rows = [[*row, b"0"][:fields] if len(row) in (order + 1, order + 2) else row for row in rows]
            if len(rows) != size or any(len(row) != fields for row in rows):
                raise DataError(f"{path}: its {order}-grams do not match the announced {size:,}; write it again")
            table = np.array(rows).astype(float)
    except ValueError:
        raise DataError(f"{path}: its {order}-grams contain something that is not a number; write it again") from None
    return table.reshape(size, fields)


def _decimal(line: bytes) -> bytes:
    """A line of a NeMo file, with its tokens as decimal numbers and a space between the fields."""
    # Split as bytes: Unicode counts some of these characters as white space.
    words = [word.decode("utf-8", "replace") for word in line.split()]  # `kind` has read the words of the unigrams
    words = [str(ord(w) - NEMO_OFFSET) if len(w) == 1 and ord(w) >= NEMO_OFFSET else w for w in words]
    return " ".join(words).encode()
