"""The input of `boosting`: a lexicon as sequences of a decoder's tokens, and which tokens begin a word."""

from __future__ import annotations

import functools
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from adapt.text.lexicon import Entry

log = logging.getLogger(__name__)

NOT_WRITABLE = "can be written in the decoder's tokens; give spoken forms that can be written"
NAMED = 3  # entries in a warning
FULL = 16  # letters from which on a phrase gets its full bonus
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
    """A form of an entry in tokens. inside: after another word. first: at the start of a sentence."""

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

    encode: a tokenizer's `encode` without special tokens. Each form is used unchanged, in lower case and with a capital
    first letter, if they differ after `normalise`. A form of fewer than FULL letters gets a proportionally smaller
    weight, because many other words sound like it. Entries whose weight is not above 0 are left out. unknown: the id of
    the unknown token; None if the tokenizer can write everything. Entries of which no form can be written without it
    are left out with a warning.
    """
    phrases: dict[tuple[tuple[int, ...], tuple[int, ...]], Phrase] = {}
    unwritable = []
    for entry in entries:
        if entry.weight <= 0:
            continue
        forms = [normalise(form) for form in (entry.written, *entry.spoken)]
        variants = [v for form in forms for v in (form, form.lower(), form[:1].upper() + form[1:])]
        of_entry = []
        for variant in dict.fromkeys(map(normalise, variants)):
            first = tuple(encode(variant))
            inside = _after_a_word(variant, encode)
            if inside and first and (unknown is None or unknown not in inside + first):
                of_entry.append(Phrase(inside, first, entry.weight * min(1.0, _letters(variant) / FULL)))
        if not of_entry:
            unwritable.append(entry.written)
        for phrase in of_entry:
            key = phrase.inside, phrase.first
            if key not in phrases or phrases[key].weight < phrase.weight:
                phrases[key] = phrase
    if unwritable:
        _warn(tuple(unwritable))
    return list(phrases.values())


@functools.cache  # once, however often the phrases are needed
def _warn(entries: tuple[str, ...]) -> None:
    """Warn that entries are not boosted."""
    names = ", ".join(map(repr, entries[:NAMED])) + (" …" if len(entries) > NAMED else "")
    problem = f"{len(entries):,} cannot be written in the decoder's tokens and are not boosted: {names}"
    log.warning("phrases: %s; give them spoken forms that can be written", problem)


def _after_a_word(text: str, encode: Callable[[str], Sequence[int]]) -> tuple[int, ...]:
    """The tokens of a text after another word."""
    # Not encode(" " + text), because some tokenizers put a space before every text.
    text = text if _spaceless(text[:1]) else " " + text
    word, both = list(encode("a")), list(encode("a" + text))
    return tuple(both[len(word) :] if both[: len(word)] == word else encode(text))


def _letters(text: str) -> int:
    """The number of letters and digits; a syllabic character counts as SYLLABLE letters."""
    return sum(SYLLABLE if ord(char) in _SYLLABIC and char.isalpha() else char.isalnum() for char in text)


def _spaceless(char: str) -> bool:
    """Whether a character is a letter of a script that writes no spaces between words."""
    if not char or unicodedata.category(char) != "Lo" or ord(char) in _KOREAN:
        return False
    return ord(char) in _SYLLABIC or any(ord(char) in script for script in _SPACELESS)


def word_beginnings(token_strings: Sequence[str]) -> list[bool]:
    """Whether a word ends before each token. token_strings: the tokens as the tokenizer writes them.

    >>> word_beginnings(["▁play", "er", "'s", "Ġby", ",", "歌"])
    [True, False, False, True, True, True]
    """
    in_bytes = any(token_string.startswith("Ġ") for token_string in token_strings)
    return [_begins(token_bytes(token_string, in_bytes)) for token_string in token_strings]


def token_bytes(token_string: str, in_bytes: bool) -> bytes:
    """The bytes that a token stands for. in_bytes: the tokenizer writes a character for each byte, as GPT-2's does."""
    if byte := re.fullmatch("<0x([0-9A-F]{2})>", token_string):  # SentencePiece's fallback for characters that it lacks
        return bytes([int(byte[1], 16)])
    if in_bytes and all(char in _BYTES for char in token_string):
        return bytes(_BYTES[char] for char in token_string)
    return token_string.encode()


def _begins(content: bytes) -> bool:
    """Whether a word ends before a token of these bytes."""
    char = content.decode("utf-8", "replace")[:1]
    if char == "\ufffd":  # a part of a character
        return content[0] in _LEADS
    return char in "▁ " or _spaceless(char) or (unicodedata.category(char)[0] not in "LMN" and char not in "'’")
