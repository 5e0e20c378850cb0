"""A lexicon as sequences of a decoder's tokens, and which tokens begin a word: the input of `boosting`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from adapt.errors import DataError
from adapt.text.lexicon import Entry

FULL = 16  # a phrase of this many letters or more has its full bonus
SYLLABLE = 3  # a character that is a whole syllable counts as this many letters
_SYLLABIC = range(0x2E80, 0x40000)  # Chinese, Japanese, Korean
_KOREAN = range(0xAC00, 0xD7B0)
_SPACELESS = (range(0xE00, 0xF00), range(0x1000, 0x10A0), range(0x1780, 0x1800))  # Thai and Lao, Burmese, Khmer
_LEADS = (*range(0xE3, 0xEA), *range(0xEF, 0xF8))  # first bytes of Chinese and Japanese characters in UTF-8
# GPT-2 writes printable bytes as they are, and the others as characters from 256 up.
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_OTHERS = (byte for byte in range(256) if byte not in _PRINTABLE)
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + i): byte for i, byte in enumerate(_OTHERS)}


@dataclass(frozen=True)
class Phrase:
    """One way to write an entry, in tokens: inside a sentence, and first in it. weight: a factor of its bonus."""

    inside: tuple[int, ...]
    first: tuple[int, ...]
    weight: float = 1.0


def tokenise(
    entries: Iterable[Entry],
    encode: Callable[[str], Sequence[int]],
    normalise: Callable[[str], str],
    unknown: int | None,
) -> list[Phrase]:
    """The phrases of entries: each written and spoken form, in tokens.

    encode: a tokenizer's `encode` without special tokens. Each form is taken as it is, in lower case and with a capital
    first letter, if `normalise` leaves a difference. A form of fewer than FULL letters gets a proportionally smaller
    weight, because many other words sound like it. Entries whose weight is not above 0 are left out. unknown: the id of
    the unknown token; None if the tokenizer can write everything. Raises DataError with every entry of which no form
    can be written without `unknown`.
    """
    phrases: dict[tuple[tuple[int, ...], tuple[int, ...]], Phrase] = {}
    problems = []
    for entry in entries:
        if entry.weight <= 0:
            continue
        forms = [normalise(form) for form in (entry.written, *entry.spoken)]
        variants = [v for form in forms for v in (form, form.lower(), form[:1].upper() + form[1:])]
        found = []
        for variant in dict.fromkeys(map(normalise, variants)):
            first = tuple(encode(variant))
            inside = _after_a_word(variant, encode)
            if inside and first and (unknown is None or unknown not in inside + first):
                found.append(Phrase(inside, first, entry.weight * min(1.0, _letters(variant) / FULL)))
        if not found:
            problem = f"phrases: {entry.written!r} cannot be written in the decoder's tokens"
            problems.append(f"{problem}; give it a spoken form that can be written, or remove it")
        for phrase in found:
            key = phrase.inside, phrase.first
            if key not in phrases or phrases[key].weight < phrase.weight:
                phrases[key] = phrase
    if problems:
        raise DataError(*problems)
    return list(phrases.values())


def _after_a_word(text: str, encode: Callable[[str], Sequence[int]]) -> tuple[int, ...]:
    # Not encode(" " + text): a tokenizer that puts a space before every text would write two.
    text = text if _spaceless(text[:1]) else " " + text
    word, both = list(encode("a")), list(encode("a" + text))
    return tuple(both[len(word) :] if both[: len(word)] == word else encode(text))


def _letters(text: str) -> int:
    return sum(SYLLABLE if ord(char) in _SYLLABIC and char.isalpha() else char.isalnum() for char in text)


def _spaceless(char: str) -> bool:
    """Whether a character is a letter of a script that writes no spaces between words."""
    if not char or unicodedata.category(char) != "Lo" or ord(char) in _KOREAN:
        return False
    return ord(char) in _SYLLABIC or any(ord(char) in script for script in _SPACELESS)


def word_beginnings(pieces: Sequence[str]) -> np.ndarray:
    """Whether a word ends before each token. pieces: the tokens as the tokenizer writes them.

    >>> word_beginnings(["▁play", "er", "'s", "Ġby", ",", "歌"]).tolist()
    [True, False, False, True, True, True]
    """
    in_bytes = any(piece.startswith("Ġ") for piece in pieces)
    return np.array([_begins(token_bytes(piece, in_bytes)) for piece in pieces])


def token_bytes(piece: str, in_bytes: bool) -> bytes:
    """The bytes that a token stands for. in_bytes: the tokenizer writes a character for each byte, as GPT-2's does."""
    if byte := re.fullmatch("<0x([0-9A-F]{2})>", piece):  # SentencePiece's fallback for characters that it lacks
        return bytes([int(byte[1], 16)])
    if in_bytes and all(char in _BYTES for char in piece):
        return bytes(_BYTES[char] for char in piece)
    return piece.encode()


def _begins(content: bytes) -> bool:
    char = content.decode("utf-8", "replace")[:1]
    if char == "\ufffd":  # a part of a character
        return content[0] in _LEADS
    return char in "▁ " or _spaceless(char) or (unicodedata.category(char)[0] not in "LMN" and char not in "'’")
