"""Copies of the sentences of the domain text, with other entities of the lexicon in place of those in the sentence."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence

from adapt.text.lexicon import Lexicon
from adapt.text.mentions import find_mentions, phrase_index
from adapt.text.words import word_spans, words_of


def swap_entities(
    lines: Iterable[str], lexicon: Lexicon, normalise: Callable[[str], str], copies: int, seed: int
) -> list[str]:
    """`copies` of each normalised line that has a mention, with every mention replaced by an entry of its type.

    All entries of a type are used about equally often, each in one of its spoken forms if the lexicon has any. seed: of
    the draws. The result holds no line twice and no line of `lines`.

    >>> from adapt.text.lexicon import Entry
    >>> queen, abba = Entry("Queen", "artist"), Entry("ABBA", "artist", ("abba", "a b b a"))
    >>> swap_entities(["play queen", "stop"], Lexicon("m", "", (queen, abba)), str.lower, 4, seed=0)
    ['play abba', 'play a b b a']

    What an apostrophe joins to an entity stays, and scripts without spaces need none around it.

    >>> swap_entities(["queen's hits"], Lexicon("m", "", (queen, abba)), str.lower, 3, seed=0)
    ["abba's hits", "a b b a's hits"]
    >>> names = Lexicon("m", "", (Entry("邓丽君", "artist"), Entry("王菲", "artist")))
    >>> swap_entities(["播放邓丽君的歌"], names, str.lower, 4, seed=0)
    ['播放王菲的歌']

    An entry that is empty after normalisation is not used.

    >>> swap_entities(["play queen"], Lexicon("m", "", (queen, Entry("!!!", "artist"))), str.casefold, 2, seed=0)
    ['play !!!']
    >>> without_marks = lambda text: text.casefold().strip("!")
    >>> swap_entities(["play queen"], Lexicon("m", "", (queen, Entry("!!!", "artist"))), without_marks, 2, seed=0)
    []
    """
    index, rng = phrase_index(lexicon, normalise), random.Random(seed)
    spoken: dict[str, list[list[str]]] = {}  # by type, the forms of each entry that are not empty
    for entry in lexicon.entries:
        if forms := [form for f in entry.spoken or (entry.written,) if (form := normalise(f))]:
            spoken.setdefault(entry.type, []).append(forms)
    turns = {kind: _turns(entries, rng) for kind, entries in spoken.items()}
    known = dict.fromkeys(lines)
    swapped: dict[str, None] = {}
    for line in list(known):
        mentions = [mention for mention in find_mentions(words_of(line), index) if mention.type in turns]
        spans = word_spans(line)
        for _ in range(copies if mentions else 0):
            text, end = "", 0
            for mention in mentions:
                first = spans[mention.start][0] + len(mention.before)
                text += line[end:first] + rng.choice(next(turns[mention.type]))
                end = spans[mention.end - 1][1] - len(mention.after)
            text += line[end:]
            if text not in known:
                swapped[text] = None
    return list(swapped)


def _turns(entries: Sequence[list[str]], rng: random.Random) -> Iterator[list[str]]:
    """All entries in random order, then all of them in another order, and so on."""
    while True:
        yield from rng.sample(entries, len(entries))
