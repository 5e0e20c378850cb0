"""What a tokenizer cannot write: characters that it does not know, which would be trained as gaps in the text."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

NAMED = 10  # characters in a remark
WAYS = ("leave-out", "fold")


@dataclass(frozen=True)
class Written:
    """Texts as a tokenizer can write them; None for a text that it cannot write.

    unknown: the characters in texts that it cannot write, the most frequent first. example: one of these texts.
    """

    texts: tuple[str | None, ...]
    unknown: tuple[str, ...] = ()
    example: str = ""

    @property
    def kept(self) -> list[str]:
        """The texts that can be written."""
        return [text for text in self.texts if text is not None]

    def remark(self) -> str:
        """How many texts cannot be written and why; "" if all can.

        >>> Written(("play", None), ("é",), "play beyoncé").remark()
        "1 of 2 lines cannot be written by the base, which does not know 'é': 'play beyoncé'"
        """
        if not (count := self.texts.count(None)):
            return ""
        named = " ".join(self.unknown[:NAMED]) + (" …" if len(self.unknown) > NAMED else "")
        such = "such as " if count > 1 else ""
        known = f"which does not know {named!r}: {such}{self.example!r}"
        return f"{count:,} of {len(self.texts):,} lines cannot be written by the base, {known}"


def writable(
    texts: Sequence[str], encode: Callable[[str], Sequence[int]], special: Collection[int], way: str
) -> Written:
    """The texts as a tokenizer can write them.

    encode: the tokenizer's, without special tokens. special: the ids of its special tokens, such as the unknown token
    and the end of sentence, which no text may be written with. way: one of WAYS. `fold` removes accents from a text
    that cannot be written with them.

    >>> letters = "abcdefghijklmnopqrstuvwxyz "
    >>> encode = lambda text: [letters.find(char) for char in text]
    >>> writable(["so", "été", "5"], encode, [-1], "leave-out")
    Written(texts=('so', None, None), unknown=('é', '5'), example='été')
    >>> writable(["so", "été", "5"], encode, [-1], "fold")
    Written(texts=('so', 'ete', None), unknown=('5',), example='5')
    """
    special = frozenset(special)
    suspects = {char for char in set().union(*texts) if not special.isdisjoint(encode(char))}
    written: list[str | None] = []
    characters: Counter[str] = Counter()
    for text in texts:
        forms = [text, _without_accents(text)] if way == "fold" else [text]
        can = (form for form in forms if suspects.isdisjoint(form) or special.isdisjoint(encode(form)))
        written.append(next(can, None))
        if written[-1] is None:
            characters.update(list(dict.fromkeys(char for char in forms[-1] if char in suspects)))
    example = next((text for text, form in zip(texts, written, strict=True) if form is None), "")
    return Written(tuple(written), tuple(char for char, _ in characters.most_common()), example)


def _without_accents(text: str) -> str:
    """The text in NFKD without combining marks."""
    return "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
