"""Sentences for entities that the domain text lacks: its own sentences with other names from the lexicon."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence

from adapt.text.lexicon import Entry, Lexicon, find_mentions, phrase_index


def swap_entities(
    lines: Iterable[str], lexicon: Lexicon, normalise: Callable[[str], str], copies: int, seed: int
) -> list[str]:
    """`copies` of each normalised line that has a mention, each mention replaced by another of its type.

    Entries of a type take turns, so that all of them come up about equally often; an entry stands as it is
    spoken, if the lexicon says how. The lines that come back are distinct and none of them is in `lines`.

    >>> queen, abba = Entry("Queen", "artist"), Entry("ABBA", "artist", ("abba", "a b b a"))
    >>> swap_entities(["play queen", "stop"], Lexicon("m", "", (queen, abba)), str.lower, 4, seed=0)
    ['play abba', 'play a b b a']
    """
    index, rng = phrase_index(lexicon, normalise), random.Random(seed)
    turns = {
        kind: _turns([e for e in lexicon.entries if e.type == kind], rng)
        for kind in dict.fromkeys(entry.type for entry in lexicon.entries)
    }
    known = dict.fromkeys(lines)
    swapped: dict[str, None] = {}
    for line in list(known):
        words = line.split()
        mentions = find_mentions(words, index)
        for _ in range(copies if mentions else 0):
            copy, end = [], 0
            for mention in mentions:
                entry = next(turns[mention.type])
                copy += [*words[end : mention.start], normalise(rng.choice(entry.spoken or (entry.written,)))]
                end = mention.end
            text = " ".join([*copy, *words[end:]])
            if text not in known:
                swapped[text] = None
    return list(swapped)


def _turns(entries: Sequence[Entry], rng: random.Random) -> Iterator[Entry]:
    while True:
        yield from rng.sample(list(entries), len(entries))
