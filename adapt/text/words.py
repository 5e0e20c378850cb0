"""Words of normalised text, which are what is aligned, counted and searched for entities.

Where a script has no spaces between words, each character is one, as usual for Chinese, Japanese and Thai.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_RANGES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # signs that stand for Chinese characters
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Chinese characters
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
_WITHOUT_SPACES = "".join(f"{chr(first)}-{chr(last)}" for first, last in _RANGES)
_MARKS = "".join(
    chr(code)
    for first, last in _RANGES[:6]
    for code in range(first, last + 1)
    if unicodedata.category(chr(code)).startswith("M")
)
# A mark belongs to the character before it.
_WORD = re.compile(rf"[{_WITHOUT_SPACES}][{_MARKS}]*|[^\s{_WITHOUT_SPACES}]+")
_CHARACTER = re.compile(f"[{_WITHOUT_SPACES}]")
_BETWEEN = re.compile(f"(?<=[{_WITHOUT_SPACES}]) (?=[{_WITHOUT_SPACES}])")


def words_of(text: str) -> list[str]:
    """The words of a text; in scripts without spaces, its characters.

    >>> words_of("play hello by 邓丽君")
    ['play', 'hello', 'by', '邓', '丽', '君']
    """
    return _WORD.findall(text) if has_characters(text) else text.split()


def word_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each of the words in the text.

    >>> word_spans("play 邓丽")
    [(0, 4), (5, 6), (6, 7)]
    """
    return [match.span() for match in _WORD.finditer(text)]


def has_characters(text: str) -> bool:
    """Whether a text has a character of a script without spaces."""
    return not text.isascii() and bool(_CHARACTER.search(text))


def joined(words: Iterable[str]) -> str:
    """A text of these words, without spaces between characters of scripts that have none.

    >>> joined(words_of("play hello by 邓丽君"))
    'play hello by 邓丽君'
    """
    text = " ".join(words)
    return _BETWEEN.sub("", text) if has_characters(text) else text
