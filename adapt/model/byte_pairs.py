"""Byte-pair encoding with nothing but the tokens of a vocabulary, in the order in which they were learned."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

# A word with the space before it, a number, or other signs, as GPT-2 splits a text before the encoding.
_PIECE = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?\d+| ?[^\s\w]+|\s+|_")


def encode(text: str, vocabulary: Mapping[bytes, int]) -> list[int]:
    """The tokens of a text. Neighbours within a word are joined, those whose token has the lowest id first.

    vocabulary: the ids of tokens by their bytes. Every single byte must be one of them.

    >>> tokens = [*(bytes([byte]) for byte in range(256)), b"an", b"na", b" an"]
    >>> vocabulary = {token: number for number, token in enumerate(tokens)}
    >>> [tokens[number] for number in encode("nana an", vocabulary)]
    [b'n', b'an', b'a', b' an']
    """
    return [vocabulary[part] for piece in _PIECE.findall(text) for part in _joined(piece.encode(), vocabulary)]


def _joined(piece: bytes, vocabulary: Mapping[bytes, int]) -> list[bytes]:
    parts = [bytes([byte]) for byte in piece]
    while True:
        ids = [vocabulary.get(a + b, len(vocabulary)) for a, b in itertools.pairwise(parts)]
        if not ids or min(ids) == len(vocabulary):
            return parts
        place = ids.index(min(ids))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
