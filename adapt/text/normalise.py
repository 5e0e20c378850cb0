"""Normalisers: small pure functions, chosen by name, that reference, hypothesis and lexicon share."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable


class _Characters(dict[int, str | None]):
    """`str.translate` table filled as characters turn up: what to keep, drop (None) or turn into a space."""

    def __missing__(self, code: int) -> str | None:
        char, category = chr(code), unicodedata.category(chr(code))
        # Joiners and marks belong to the words of many scripts, so only what never does is dropped.
        if category in ("Pd", "Pc", "Cc") or category.startswith("Z") or char in "/\\\u2044:;,|@":
            self[code] = " "
        elif char in "'." or category[0] in "LMN":
            self[code] = char
        else:
            self[code] = None
        return self[code]


_CHARACTERS = _Characters()
_APOSTROPHES = str.maketrans({**dict.fromkeys("\u2018\u2019\u02bc\u00b4`\uff07", "'"), "\u0149": "'n"})
_PLAIN = re.compile(r"[a-z0-9 ]*")  # most transcripts are, and need none of what follows
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_STOPS = re.compile(r"\.(?!\d)|(?<!\d)\.")
_QUOTES = re.compile(r"(?<!\w)'|'(?!\w)")


def none(text: str) -> str:
    """Collapse spaces and change nothing else.

    >>> none("  Guns N' Roses,  live ")
    "Guns N' Roses, live"
    """
    return " ".join(text.split())


def basic(text: str) -> str:
    """Lower case, no punctuation but apostrophes inside words; letters of every script stay as they are.

    >>> basic("Play \u201cDon\u2019t Stop\u201d by AC/DC & the Jackson-Five!")
    "play don't stop by ac dc and the jackson five"
    >>> basic("Beyonc\u00e9 sold 1,000,000 at 3.5 U.S. dollars...")
    'beyonc\u00e9 sold 1000000 at 3.5 us dollars'
    """
    if _PLAIN.fullmatch(text):
        return " ".join(text.split())
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).lower()
    text = _THOUSANDS.sub("", text.replace("&", " and ").replace("..", " "))
    text = _STOPS.sub("", text.translate(_CHARACTERS))
    # Dropped characters can bring a letter and its mark together: compose once more, so that twice is once.
    return unicodedata.normalize("NFKC", " ".join(_QUOTES.sub("", text).split()))


def english(text: str) -> str:
    """As Whisper's for English (2212.04356, appendix C): numbers in digits, contractions in full, one spelling.

    Hesitations ("um") and what stands in brackets are dropped. The rules are those of the package whisper-normalizer.

    >>> english("We\u2019ll play twenty-one colours, um, at five p.m. (live)")
    'we will play 21 colors at 5 p m'
    """
    return " ".join(_whisper()(text.translate(_APOSTROPHES)).split())


@functools.cache
def _whisper() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


NORMALISERS: dict[str, Callable[[str], str]] = {"none": none, "basic": basic, "english": english}
