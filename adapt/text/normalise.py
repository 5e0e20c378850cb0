"""Text normalisers, chosen by name: one is applied to references, hypotheses, domain text and lexicon alike."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable


class _Characters(dict[int, str | None]):
    """A table for `str.translate`, filled as characters occur: None drops one; others stay or become a space."""

    def __missing__(self, code: int) -> str | None:
        char, category = chr(code), unicodedata.category(chr(code))
        # Marks are parts of words in many scripts, so they stay.
        if category == "Nd":
            self[code] = str(unicodedata.digit(char))
        elif char == _TATWEEL:
            self[code] = None
        elif category in ("Pd", "Pc", "Cc") or category.startswith("Z") or char in "/\\\u2044:;,|@\u200b":
            self[code] = " "
        elif char in "'." or category[0] in "LMN":
            self[code] = char
        else:
            self[code] = None
        return self[code]


class _Compatible(dict[int, str]):
    """A table for `str.translate` before NFKC, which would join some characters with the word or number before them."""

    def __missing__(self, code: int) -> str:
        char, decomposition = chr(code), unicodedata.decomposition(chr(code))
        if decomposition.startswith("<fraction>"):
            self[code] = f" {char}"
        elif decomposition.startswith("<super>") and unicodedata.category(char) == "So":  # the sign of a trade mark
            self[code] = ""
        else:
            self[code] = char
        return self[code]


_TATWEEL = "\u0640"  # lengthens an Arabic word on paper
_CHARACTERS = _Characters()
_APOSTROPHES = str.maketrans({**dict.fromkeys("\u2018\u2019\u02bc\u00b4`\uff07\u2032", "'"), "\u0149": "'n"})
_COMPATIBLE = _Compatible(_APOSTROPHES)
_PLAIN = re.compile(r"[a-z0-9 ]*")  # most transcripts match, and then no rule applies
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_ACRONYMS = re.compile(r"(?<!\w)(?:[^\W\d_]\.)+[^\W\d_]?(?!\w)")  # letters with stops: u.s.a.
_STOPS = re.compile(r"\.(?!\d)|(?<!\d)\.")
_QUOTES = re.compile(r"(?<!\w)'|'(?!\w)")


def none(text: str) -> str:
    """Collapse spaces and change nothing else.

    >>> none("  Guns N' Roses,  live ")
    "Guns N' Roses, live"
    """
    return " ".join(text.split())


def basic(text: str) -> str:
    """Lower case, without punctuation except apostrophes inside words; letters of every script are kept.

    >>> basic("Play \u201cDon\u2019t Stop\u201d by AC/DC & the Jackson-Five!")
    "play don't stop by ac dc and the jackson five"
    >>> basic("Beyonc\u00e9 sold 1,000,000 at 3.5 U.S. dollars...and will.i.am?")
    'beyonc\u00e9 sold 1000000 at 3.5 us dollars and will i am'
    """
    if _PLAIN.fullmatch(text):
        return " ".join(text.split())
    text = unicodedata.normalize("NFKC", text.translate(_COMPATIBLE)).lower().replace("i\u0307", "i")  # Turkish \u0130
    text = _THOUSANDS.sub("", text.replace("&", " and ").replace("..", " "))
    text = _ACRONYMS.sub(lambda match: match[0].replace(".", ""), text.translate(_CHARACTERS))
    text = _STOPS.sub(" ", text)
    # A dropped character can leave a letter and its mark side by side. They are composed, so that a second
    # normalisation changes nothing.
    return unicodedata.normalize("NFKC", " ".join(_QUOTES.sub("", text).split()))


def english(text: str) -> str:
    """Whisper's normaliser for English (arXiv 2212.04356, appendix C), by the package whisper-normalizer.

    Numbers in digits, contractions written out, one spelling; hesitations ("um") and text in brackets are dropped.

    >>> english("We\u2019ll play twenty-one colours, um, at five p.m. (live)")
    'we will play 21 colors at 5 p m'
    """
    return " ".join(_whisper()(text.translate(_APOSTROPHES)).split())


def is_latin(text: str) -> bool:
    """Whether most letters of a text are Latin, as those that `english` is made for; True without letters.

    >>> is_latin("Beyonc\u00e9 2"), is_latin("\u0917\u093e\u0928\u093e"), is_latin("5")
    (True, False, True)
    """
    if text.isascii():
        return True
    letters = [char for char in text if char.isalpha()]
    return 2 * sum("LATIN" in unicodedata.name(char, "") for char in letters) >= len(letters)


@functools.cache
def _whisper() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


NORMALISERS: dict[str, Callable[[str], str]] = {"none": none, "basic": basic, "english": english}
