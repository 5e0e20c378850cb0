"""Entity errors of one utterance: wrong mentions, errors on biased words, false alarms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adapt.score.mention_alignment import align_for_mentions
from adapt.score.wer import Op
from adapt.text.mentions import Mention, Phrase, PhraseIndex, find_mentions, is_form


@dataclass(frozen=True)
class JudgedMention:
    """A mention of the reference and the hypothesis words `start` to `end` (exclusive) that are aligned to it."""

    mention: Mention
    wrong: bool
    start: int
    end: int


@dataclass(frozen=True)
class EntityErrors:
    """Entity errors of one utterance.

    judged: the mentions of its reference, in order. biased_words: reference words inside mentions. biased_errors:
    substitutions and deletions of these words, and insertions inside the hypothesis words of a mention or of a false
    alarm. forgiven: such errors of mentions that are right by another form of their entity; they are not among
    biased_errors. false_alarms: None without a lexicon.
    """

    judged: tuple[JudgedMention, ...]
    biased_words: int
    biased_errors: int
    forgiven: int
    false_alarms: int | None


def entity_errors(
    ref: Sequence[str],
    hyp: Sequence[str],
    ops: Sequence[Op],
    mentions: Sequence[Mention],
    index: PhraseIndex | None = None,
) -> EntityErrors:
    """Judge the mentions of a reference on an alignment with the fewest edits (`wer.align_words`) of normalised words.

    A mention is wrong if any of its words is substituted or deleted or if a word is inserted strictly inside it, unless
    the aligned hypothesis words are another form of the same entity in the lexicon, or differ only in what an
    apostrophe joins to the entity ("adele" for "adele's"). If another alignment with the fewest edits has fewer wrong
    mentions, that one counts. A false alarm is a lexicon mention in the hypothesis where the reference has the entity
    in none of its forms. index: the lexicon; None: mentions have no other forms, and false alarms are not counted.

    >>> from adapt.score.wer import align_words
    >>> ref, hyp = "play let it be".split(), "play let it now be".split()
    >>> entity_errors(ref, hyp, align_words(ref, hyp), [Mention(1, 4, "track", "Let It Be")])
    ... # doctest: +NORMALIZE_WHITESPACE, +ELLIPSIS
    EntityErrors(judged=(JudgedMention(mention=Mention(start=1, end=4, ...), wrong=True, start=1, end=5),),
                 biased_words=3, biased_errors=1, forgiven=0, false_alarms=None)
    """
    ref, hyp = tuple(ref), tuple(hyp)
    biased_words = sum(m.end - m.start for m in mentions)
    if ref == hyp:
        judged = tuple(JudgedMention(m, False, m.start, m.end) for m in mentions)
        return EntityErrors(judged, biased_words, 0, 0, None if index is None else 0)

    hyp_mentions = find_mentions(hyp, index) if index is not None else []
    if not mentions and not hyp_mentions:
        return EntityErrors((), 0, 0, 0, None if index is None else 0)

    def forms(mention: Mention) -> tuple[Phrase, ...]:
        words, phrase = ref[mention.start : mention.end], mention.phrase(ref)
        others = {phrase, *(index.forms.get(phrase, ()) if index else ())}
        return words, *(form for form in sorted(others) if form != words)

    def judged_on(ops: Sequence[Op], mentions: Sequence[Mention]) -> tuple[JudgedMention, ...]:
        before, after = _boundaries(len(ref), ops)
        return tuple(_judge(m, hyp, forms(m), before, after) for m in mentions)

    judged = judged_on(ops, mentions)
    if any(j.wrong for j in judged):
        best = align_for_mentions(ref, hyp, mentions, [forms(m) for m in mentions])
        judged_best = judged_on(best, mentions)
        if sum(j.wrong for j in judged_best) < sum(j.wrong for j in judged):
            ops, judged = best, judged_best
    false_alarms: list[Mention] = []
    if index is not None:
        others = judged_on(ops, [m for m in find_mentions(ref, index) if m not in mentions])
        correct = [(j.start, j.end) for j in (*judged, *others) if not j.wrong]
        # A mention within correct words is no false alarm: the reference has the same words there.
        correct += [(op.hyp_start, op.hyp_end) for op in ops if op.kind == "equal"]
        false_alarms = [m for m in hyp_mentions if not any(a <= m.start and m.end <= b for a, b in correct)]
    forms_heard = [j for j in judged if not j.wrong and hyp[j.start : j.end] != ref[j.mention.start : j.mention.end]]
    errors = _biased_errors(ops, mentions, [*judged, *false_alarms])
    forgiven = _biased_errors(ops, [j.mention for j in forms_heard], forms_heard)
    alarms = None if index is None else len(false_alarms)
    return EntityErrors(judged, biased_words, errors - forgiven, forgiven, alarms)


def _boundaries(words: int, ops: Sequence[Op]) -> tuple[list[int], list[int]]:
    """Hypothesis position at each of the words + 1 reference boundaries, before and after the insertions there."""
    before, after = [0] * (words + 1), [0] * (words + 1)
    for op in ops:
        if op.kind == "insert":
            after[op.ref_start] = op.hyp_end
        for i in range(op.ref_start + 1, op.ref_end + 1):
            before[i] = after[i] = op.hyp_start if op.kind == "delete" else op.hyp_start + i - op.ref_start
    return before, after


def _judge(
    mention: Mention, hyp: Phrase, forms: Iterable[Phrase], before: list[int], after: list[int]
) -> JudgedMention:
    """Look for a form of the entity in the hypothesis at the place of a mention. before, after: see `_boundaries`."""
    start, end = after[mention.start], before[mention.end]
    widest_start, widest_end = before[mention.start], after[mention.end]
    for form in forms:
        # Another form may be longer than the mention, and then includes insertions at either end.
        for first in range(max(widest_start, end - len(form)), min(start, widest_end - len(form)) + 1):
            if is_form(hyp[first : first + len(form)], form):
                return JudgedMention(mention, False, first, first + len(form))
    return JudgedMention(mention, True, start, end)


def _biased_errors(ops: Sequence[Op], mentions: Sequence[Mention], hyp_spans: Iterable[JudgedMention | Mention]) -> int:
    """Substituted and deleted words of `mentions`, and inserted words within `hyp_spans`."""
    in_ref = {position for m in mentions for position in range(m.start, m.end)}
    in_hyp = {position for span in hyp_spans for position in range(span.start, span.end)}
    errors = 0
    for op in ops:
        if op.kind in ("substitute", "delete"):
            errors += len(in_ref.intersection(range(op.ref_start, op.ref_end)))
        elif op.kind == "insert":
            errors += len(in_hyp.intersection(range(op.hyp_start, op.hyp_end)))
    return errors


def rare_word_errors(
    ref: Sequence[str], hyp: Sequence[str], ops: Sequence[Op], mentions: Sequence[Mention]
) -> tuple[int, int]:
    """The number of biased words and of errors on them, as is21_deep_bias counts: by word, anywhere in the utterance.

    A word of the reference, or an inserted one, is biased if any mention contains it.

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
