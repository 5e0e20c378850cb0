"""Mentions of entities in normalised sentences: those of a lexicon, and those that a manifest annotates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from adapt.text.lexicon import Entry, Lexicon
from adapt.text.manifest import Entity, Utterance
from adapt.text.normalise import basic
from adapt.text.words import joined, words_of

Phrase = tuple[str, ...]
NAMED = 3  # examples in a remark

# What an apostrophe joins to a name: "l'eiffel" in Romance languages, "adele's" in English.
_BEFORE = re.compile(r"((?:[cdjlmnst]|qu)')(.+)")
_AFTER = re.compile(r"(.+)('(?:s|d|m|ll|re|ve))")


@dataclass(frozen=True)
class Mention:
    """One occurrence of an entity: words `start` to `end` (exclusive) of a normalised sentence.

    before, after: what an apostrophe joins to its first and its last word, such as "'s".
    """

    start: int
    end: int
    type: str
    written: str
    before: str = ""
    after: str = ""

    def phrase(self, words: Sequence[str]) -> Phrase:
        """The words of the entity alone, without `before` and `after`. words: those of the sentence."""
        first, *others = words[self.start : self.end]
        *others, last = first.removeprefix(self.before), *others
        return *others, last.removesuffix(self.after)


@dataclass(frozen=True)
class PhraseIndex:
    """A lexicon as `find_mentions` searches it.

    entries: the entry of each normalised phrase. forms: all forms of the entity of each phrase. lengths: by first word,
    the lengths of the phrases in words, longest first. as_written: the same lexicon in the normalisation `basic`, which
    drops and joins no words of names; None if this index is in it.
    """

    entries: dict[Phrase, Entry]
    forms: dict[Phrase, frozenset[Phrase]]
    lengths: dict[str, tuple[int, ...]]
    as_written: PhraseIndex | None = None


def phrase_index(lexicon: Lexicon, normalise: Callable[[str], str]) -> PhraseIndex:
    """Index the written and spoken forms of a lexicon; a phrase of two entries belongs to the first."""
    entries: dict[Phrase, Entry] = {}
    forms: dict[Phrase, frozenset[Phrase]] = {}
    for entry in lexicon.entries:
        of_entry = frozenset(p for form in (entry.written, *entry.spoken) if (p := tuple(words_of(normalise(form)))))
        for phrase in of_entry:
            entries.setdefault(phrase, entry)
            forms[phrase] = forms.get(phrase, frozenset()) | of_entry
    lengths: dict[str, set[int]] = {}
    for phrase in entries:
        lengths.setdefault(phrase[0], set()).add(len(phrase))
    as_written = None if normalise is basic else phrase_index(lexicon, basic)
    return PhraseIndex(entries, forms, {w: tuple(sorted(n, reverse=True)) for w, n in lengths.items()}, as_written)


def readings(words: Phrase) -> Iterator[tuple[Phrase, str, str]]:
    """The words as they are, and without what an apostrophe joins to the first or the last; with what was left out.

    >>> list(readings(("adele's",)))
    [(("adele's",), '', ''), (('adele',), '', "'s")]
    """
    yield words, "", ""
    if match := _BEFORE.fullmatch(words[0]):
        yield (match[2], *words[1:]), match[1], ""
    if match := _AFTER.fullmatch(words[-1]):
        yield (*words[:-1], match[1]), "", match[2]


def is_form(words: Phrase, form: Phrase) -> bool:
    """Whether the words are this form of an entity, in one of their `readings`.

    >>> is_form(("adele's",), ("adele",)), is_form(("adeles",), ("adele",))
    (True, False)
    """
    return words == form or (len(words) == len(form) and any(reading == form for reading, _, _ in readings(words)))


def find_mentions(words: Sequence[str], phrases: PhraseIndex) -> list[Mention]:
    """Mentions in normalised words: left to right, longest match first, none overlapping.

    >>> lexicon = Lexicon("m", "", (Entry("Queen", "artist"), Entry("Dancing Queen", "track")))
    >>> find_mentions("play dancing queen by queen".split(), phrase_index(lexicon, str.lower))
    ... # doctest: +NORMALIZE_WHITESPACE
    [Mention(start=1, end=3, type='track', written='Dancing Queen', before='', after=''),
     Mention(start=4, end=5, type='artist', written='Queen', before='', after='')]
    """
    words, lengths = tuple(words), phrases.lengths
    mentions, end = [], 0
    for start, word in enumerate(words):
        if start < end or (word not in lengths and "'" not in word):
            continue
        firsts = [reading[0] for reading, _, _ in readings((word,))]
        for length in sorted({n for first in firsts for n in lengths.get(first, ())}, reverse=True):
            if start + length > len(words):
                continue
            found = readings(words[start : start + length])
            mention = next(((entry, *ends) for phrase, *ends in found if (entry := phrases.entries.get(phrase))), None)
            if mention:
                entry, before, after = mention
                end = start + length
                mentions.append(Mention(start, end, entry.type, entry.written, before, after))
                break
    return mentions


def place_entities(
    words: Sequence[str], entities: Iterable[Entity], normalise: Callable[[str], str], text: str = ""
) -> tuple[list[Mention], list[str]]:
    """Find the words of annotated entities in a normalised reference.

    Returns their mentions in the order of the words, and the entities whose words the reference does not contain, or
    not often enough. Longer entities are placed first, so that "queen" does not take its word from "dancing queen".
    text: the reference before normalisation. If it contains an entity whose words the normaliser joined with others,
    the mention is these words.

    >>> entities = [Entity("Queen", "a"), Entity("Dancing Queen", "t"), Entity("ABBA", "a")]
    >>> place_entities("dancing queen by queen".split(), entities, str.lower)
    ... # doctest: +NORMALIZE_WHITESPACE
    ([Mention(start=0, end=2, type='t', written='Dancing Queen', before='', after=''),
      Mention(start=3, end=4, type='a', written='Queen', before='', after='')], ['ABBA'])
    """
    words = tuple(words)
    taken = [False] * len(words)
    mentions, unplaced = [], []
    phrases = sorted(((tuple(words_of(normalise(e.text))), e) for e in entities), key=lambda pair: -len(pair[0]))
    for phrase, entity in phrases:
        places = (*_places(words, phrase), *_joined_places(words, entity.text, text, normalise))
        for start, end, before, after in places:
            if not any(taken[start:end]):
                taken[start:end] = [True] * (end - start)
                mentions.append(Mention(start, end, entity.type, entity.text, before, after))
                break
        else:
            unplaced.append(entity.text)
    return sorted(mentions, key=lambda m: m.start), unplaced


def _places(words: Phrase, phrase: Phrase) -> list[tuple[int, int, str, str]]:
    """Start, end, `before` and `after` of every occurrence of a phrase, exact ones first."""
    size = len(phrase)
    found = [
        (start, start + size, before, after)
        for start in range(len(words) - size + 1 if size else 0)
        for reading, before, after in readings(words[start : start + size])
        if reading == phrase
    ]
    return sorted(found, key=lambda place: bool(place[2] or place[3]))


def _joined_places(
    words: Phrase, name: str, text: str, normalise: Callable[[str], str]
) -> Iterator[tuple[int, int, str, str]]:
    """Words of a normalised text that stem from a name in it: those that neither the text before nor after has."""
    pattern = r"\W+".join(re.findall(r"\w+", name))
    for match in re.finditer(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE) if pattern else ():
        start = _common(words, words_of(normalise(text[: match.start()])))
        end = len(words) - _common(words[::-1], words_of(normalise(text[match.end() :]))[::-1])
        if start < end:
            yield start, end, "", ""


def _common(words: Sequence[str], others: Sequence[str]) -> int:
    """The number of words at the beginning that are the same."""
    pairs = zip(words, others, strict=False)
    return next((i for i, (word, other) in enumerate(pairs) if word != other), min(len(words), len(others)))


def reference_mentions(
    words: Sequence[str], utterance: Utterance, index: PhraseIndex | None, normalise: Callable[[str], str]
) -> tuple[list[Mention], list[str]]:
    """The mentions in the normalised words of a reference, and its entities that have no place there.

    They are the annotated entities of the utterance or, if it is not annotated, those that the lexicon finds. index:
    None: no lexicon.
    """
    if utterance.entities is not None:
        return place_entities(words, utterance.entities, normalise, utterance.text)
    if index is None:
        return [], []
    mentions = find_mentions(words, index)
    if index.as_written is None:
        return mentions, []
    as_written = words_of(basic(utterance.text))
    lost = _without(find_mentions(as_written, index.as_written), mentions)
    names = {joined(mention.phrase(as_written)): mention.written for mention in lost}
    entities = [Entity(joined(mention.phrase(as_written)), mention.type) for mention in lost]
    placed, unplaced = place_entities(words, entities, normalise, utterance.text)
    taken = {place for mention in mentions for place in range(mention.start, mention.end)}
    others = [replace(m, written=names[m.written]) for m in placed if taken.isdisjoint(range(m.start, m.end))]
    return sorted([*mentions, *others], key=lambda m: m.start), [names[name] for name in unplaced]


def _without(mentions: Sequence[Mention], others: Sequence[Mention]) -> list[Mention]:
    """The mentions of entities that `others` does not have as often."""
    count = Counter(mention.written for mention in others)
    rest = []
    for mention in mentions:
        count[mention.written] -= 1
        if count[mention.written] < 0:
            rest.append(mention)
    return rest


def without_place(entities: Sequence[str]) -> str:
    """A remark on entities that `reference_mentions` found no place for.

    >>> without_place(["!!!", "(live)", "!!!"])
    "3 entities are not in their normalised references, and are not scored: '!!!', '(live)'"
    """
    names = list(dict.fromkeys(entities))
    such = "such as " if len(names) > NAMED else ""
    examples = such + ", ".join(map(repr, names[:NAMED]))
    if len(entities) == 1:
        return f"an entity is not in its normalised reference, and is not scored: {examples}"
    return f"{len(entities):,} entities are not in their normalised references, and are not scored: {examples}"


def entities_in(lines: Iterable[str], phrases: PhraseIndex, normalise: Callable[[str], str]) -> frozenset[str]:
    """Normalised written forms of the entities that occur in normalised lines (`seen` in `scoring.score_systems`)."""
    written = {mention.written for line in lines for mention in find_mentions(words_of(line), phrases)}
    return frozenset(map(normalise, written))
