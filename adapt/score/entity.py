"""Entity errors of one utterance: wrong mentions, errors on biased words, false alarms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from adapt.score.wer import Op
from adapt.text.corpus import Entity
from adapt.text.lexicon import Mention, Phrase, PhraseIndex, find_mentions


@dataclass(frozen=True)
class Judged:
    """A mention of the reference and the hypothesis words `start` to `end` (exclusive) that answer it."""

    mention: Mention
    wrong: bool
    start: int
    end: int


@dataclass(frozen=True)
class EntityErrors:
    """Entity errors of one utterance; `false_alarms` is None without a lexicon.

    Biased words are reference words inside mentions. Their errors are substitutions and deletions there, and
    words inserted inside what answers a mention or in a false alarm.
    """

    judged: tuple[Judged, ...]
    biased_words: int
    biased_errors: int
    false_alarms: int | None


def place_entities(
    words: Sequence[str], entities: Iterable[Entity], normalise: Callable[[str], str]
) -> tuple[list[Mention], int]:
    """Place annotated entities on normalised reference words, in order; also how many have no place there.

    Longer ones are placed first, so that "queen" cannot take its word out of "dancing queen".

    >>> entities = [Entity("Queen", "a"), Entity("Dancing Queen", "t")]
    >>> place_entities("dancing queen by queen".split(), entities, str.lower)
    ... # doctest: +NORMALIZE_WHITESPACE
    ([Mention(start=0, end=2, type='t', written='Dancing Queen'),
      Mention(start=3, end=4, type='a', written='Queen')], 0)
    """
    words = list(words)
    taken = [False] * len(words)
    mentions, unplaced = [], 0
    phrases = sorted(((normalise(e.text).split(), e) for e in entities), key=lambda pair: -len(pair[0]))
    for phrase, entity in phrases:
        size = len(phrase)
        for start in range(len(words) - size + 1 if size else 0):
            if words[start : start + size] == phrase and not any(taken[start : start + size]):
                taken[start : start + size] = [True] * size
                mentions.append(Mention(start, start + size, entity.type, entity.text))
                break
        else:
            unplaced += 1
    return sorted(mentions, key=lambda m: m.start), unplaced


def _boundaries(words: int, ops: Sequence[Op]) -> tuple[list[int], list[int]]:
    """Hypothesis position at each of the words + 1 reference boundaries, before and after its insertions."""
    before, after = [0] * (words + 1), [0] * (words + 1)
    for op in ops:
        if op.kind == "insert":
            after[op.ref_start] = op.hyp_end
        for i in range(op.ref_start + 1, op.ref_end + 1):
            before[i] = after[i] = op.hyp_start if op.kind == "delete" else op.hyp_start + i - op.ref_start
    return before, after


def _judge(mention: Mention, hyp: Phrase, forms: Iterable[Phrase], before: list[int], after: list[int]) -> Judged:
    start, end = after[mention.start], before[mention.end]
    widest_start, widest_end = before[mention.start], after[mention.end]
    for form in forms:
        # Another form can be longer than the mention: its words may take insertions at the two ends, too.
        for first in range(max(widest_start, end - len(form)), min(start, widest_end - len(form)) + 1):
            if hyp[first : first + len(form)] == form:
                return Judged(mention, False, first, first + len(form))
    return Judged(mention, True, start, end)


def entity_errors(
    ref: Sequence[str],
    hyp: Sequence[str],
    ops: Sequence[Op],
    mentions: Sequence[Mention],
    index: PhraseIndex | None = None,
) -> EntityErrors:
    """Judge the mentions of a reference on an alignment (`wer.align`) of normalised words.

    A mention is wrong if any of its words is substituted or deleted or an insertion falls strictly inside
    it, unless the words heard in its place are another form of it in the lexicon. A false alarm is a lexicon
    mention of the hypothesis that the reference does not say there in any form.

    >>> from adapt.score.wer import align
    >>> ref, hyp = "play let it be".split(), "play let it now be".split()
    >>> entity_errors(ref, hyp, align(ref, hyp), [Mention(1, 4, "track", "Let It Be")])
    ... # doctest: +NORMALIZE_WHITESPACE
    EntityErrors(judged=(Judged(mention=Mention(start=1, end=4, type='track', written='Let It Be'),
                                wrong=True, start=1, end=5),),
                 biased_words=3, biased_errors=1, false_alarms=None)
    """
    ref, hyp = tuple(ref), tuple(hyp)
    biased_words = sum(m.end - m.start for m in mentions)
    if ref == hyp:
        judged = tuple(Judged(m, False, m.start, m.end) for m in mentions)
        return EntityErrors(judged, biased_words, 0, None if index is None else 0)

    heard_mentions = find_mentions(hyp, index) if index is not None else []
    if not mentions and not heard_mentions:
        return EntityErrors((), 0, 0, None if index is None else 0)
    before, after = _boundaries(len(ref), ops)

    def judge(mention: Mention) -> Judged:
        own = ref[mention.start : mention.end]
        forms = (index.forms.get(own) if index else None) or (own,)
        return _judge(mention, hyp, (own, *(f for f in sorted(forms) if f != own)), before, after)

    judged = tuple(map(judge, mentions))
    false_alarms: list[Mention] = []
    if index is not None:
        also = [judge(m) for m in find_mentions(ref, index) if m not in mentions]
        heard = [(j.start, j.end) for j in (*judged, *also) if not j.wrong]
        # What the reference says in the same place is no hallucination, whatever it is part of there.
        heard += [(op.hyp_start, op.hyp_end) for op in ops if op.kind == "equal"]
        false_alarms = [m for m in heard_mentions if not any(a <= m.start and m.end <= b for a, b in heard)]

    biased = {position for m in mentions for position in range(m.start, m.end)}
    spans = [(j.start, j.end) for j in judged] + [(m.start, m.end) for m in false_alarms]
    named = {position for start, end in spans for position in range(start, end)}
    errors = 0
    for op in ops:
        if op.kind in ("replace", "delete"):
            errors += len(biased.intersection(range(op.ref_start, op.ref_end)))
        elif op.kind == "insert":
            errors += len(named.intersection(range(op.hyp_start, op.hyp_end)))
    return EntityErrors(judged, biased_words, errors, None if index is None else len(false_alarms))


def rare_word_errors(
    ref: Sequence[str], hyp: Sequence[str], ops: Sequence[Op], mentions: Sequence[Mention]
) -> tuple[int, int]:
    """Biased words and errors on them as is21_deep_bias counts: by word, wherever it stands in the utterance.

    A reference word is biased if it is a word of any mention, and so is an inserted word.

    >>> from adapt.score.wer import align_is21
    >>> ref, hyp = "ann and ann".split(), "ann and dan ann".split()
    >>> rare_word_errors(ref, hyp, align_is21(ref, hyp), [Mention(0, 1, "rare", "ann")])
    (2, 0)
    """
    rare = {word for m in mentions for word in ref[m.start : m.end]}
    errors = 0
    for op in ops:
        if op.kind == "insert":
            errors += sum(word in rare for word in hyp[op.hyp_start : op.hyp_end])
        elif op.kind != "equal":
            errors += sum(word in rare for word in ref[op.ref_start : op.ref_end])
    return sum(word in rare for word in ref), errors
