"""Add up the errors of several systems on one set of utterances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from adapt.score.entity import EntityErrors, JudgedMention, entity_errors, rare_word_errors
from adapt.score.wer import BATCH, Op, WordErrors, Words, align_all, align_is21, count
from adapt.text.manifest import Utterance
from adapt.text.mentions import Mention, PhraseIndex, reference_mentions
from adapt.text.words import joined, words_of

_COUNTS = (
    *("words", "substitutions", "deletions", "insertions", "chars", "char_errors"),
    *("mentions", "wrong", "mentions_seen", "wrong_seen", "biased_words", "biased_errors", "forgiven"),
    "false_alarms",
)


@dataclass(frozen=True)
class Rules:
    """The rules of counting.

    normalise: applied to references, hypotheses and entities. index: of the lexicon; None without one. seen: normalised
    written forms of the entities that the domain text contains; None: not known. convention: one of CONVENTIONS.
    """

    normalise: Callable[[str], str]
    index: PhraseIndex | None
    seen: frozenset[str] | None
    convention: str


@dataclass
class Totals:
    """Error counts of one system on one set.

    confused: wrong mentions by (type, entity, reference words, hypothesis words). changed: by (type, entity, `gained`
    or `lost`), the mentions that this system recognises and the set's first system does not (gained), and the reverse
    (lost). stats: the rows that the bootstrap draws, one per utterance, (utterances, 4): word errors, words, wrong
    mentions, mentions.
    """

    stats: np.ndarray
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTS, 0))
    by_type: dict[str, dict[str, int]] = field(default_factory=dict)
    confused: Counter = field(default_factory=Counter)
    changed: Counter = field(default_factory=Counter)

    @property
    def word_errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.counts["substitutions"] + self.counts["deletions"] + self.counts["insertions"]


def count_set(
    utterances: Sequence[Utterance], systems: Mapping[str, Mapping[str, str]], rules: Rules
) -> tuple[dict[str, Totals], list[str]]:
    """Totals of each system over the utterances. systems: system -> id -> text, the baseline first.

    The second value are the entities whose words the normalised reference does not contain.
    """
    totals = {system: Totals(np.zeros((len(utterances), 4), dtype=np.int64)) for system in systems}
    unplaced: list[str] = []
    for start in range(0, len(utterances), BATCH):
        batch = utterances[start : start + BATCH]
        refs = [tuple(words_of(rules.normalise(u.text))) for u in batch]
        mentions = []
        for ref, utterance in zip(refs, batch, strict=True):
            of_utterance, without_place = reference_mentions(ref, utterance, rules.index, rules.normalise)
            mentions.append(of_utterance)
            unplaced += without_place
        judged_of_base = None
        for system, total in totals.items():
            hyps = [tuple(words_of(rules.normalise(systems[system][u.id]))) for u in batch]
            pairs = list(zip(refs, hyps, strict=True))
            judged = []
            for i, ops in enumerate(_alignments(pairs, rules)):
                judged.append(_add(total, start + i, *pairs[i], ops, mentions[i], rules))
            if judged_of_base is None:
                judged_of_base = judged
            else:
                _add_changes(total, judged_of_base, judged)
    return totals, unplaced


def _alignments(pairs: Sequence[tuple[Words, Words]], rules: Rules) -> Iterator[list[Op]]:
    """The alignment of each (reference, hypothesis) pair by the convention of the rules."""
    if rules.convention == "is21":
        return (align_is21(ref, hyp) for ref, hyp in pairs)
    return align_all(pairs)


def _add(
    total: Totals,
    place: int,
    ref: tuple[str, ...],
    hyp: tuple[str, ...],
    ops: Sequence[Op],
    mentions: Sequence[Mention],
    rules: Rules,
) -> tuple[JudgedMention, ...]:
    """Add the utterance in row `place` of the set to the totals of a system, and return its judged mentions."""
    words, entities = count(ref, hyp, ops), entity_errors(ref, hyp, ops, mentions, rules.index)
    biased = entities.biased_words, entities.biased_errors, entities.forgiven
    if rules.convention == "is21":
        biased = *rare_word_errors(ref, hyp, ops, mentions), 0
    counts = total.counts
    for key, value in vars(words).items():
        counts[key] += value
    for key, value in zip(("biased_words", "biased_errors", "forgiven"), biased, strict=True):
        counts[key] += value
    counts["false_alarms"] += entities.false_alarms or 0
    for judged in entities.judged:
        _add_mention(total, judged, ref, hyp, rules)
    total.stats[place] = _stats(words, entities)
    return entities.judged


def _stats(words: WordErrors, entities: EntityErrors) -> tuple[int, int, int, int]:
    """The row of `Totals.stats`."""
    errors = words.substitutions + words.deletions + words.insertions
    return errors, words.words, sum(j.wrong for j in entities.judged), len(entities.judged)


def _add_mention(
    total: Totals, judged: JudgedMention, ref: tuple[str, ...], hyp: tuple[str, ...], rules: Rules
) -> None:
    """Add a judged mention to the totals of a system."""
    mention = judged.mention
    phrase = mention.phrase(ref)
    # The domain text may have the entity in another form than the reference.
    forms = (rules.index.forms.get(phrase) if rules.index else None) or (phrase,)
    names = {*map(joined, forms), rules.normalise(mention.written)}
    seen = rules.seen is not None and not rules.seen.isdisjoint(names)
    of_type = total.by_type.setdefault(mention.type, {"mentions": 0, "wrong": 0})
    for counts in (total.counts, of_type):
        counts["mentions"] += 1
        counts["wrong"] += judged.wrong
    total.counts["mentions_seen"] += seen
    total.counts["wrong_seen"] += seen and judged.wrong
    if judged.wrong:
        said, heard = joined(ref[mention.start : mention.end]), joined(hyp[judged.start : judged.end])
        total.confused[mention.type, mention.written, said, heard] += 1


def _add_changes(
    total: Totals, base: Sequence[Sequence[JudgedMention]], system: Sequence[Sequence[JudgedMention]]
) -> None:
    """Compare the judged mentions of each utterance with those of the baseline."""
    for before, after in zip(chain.from_iterable(base), chain.from_iterable(system), strict=True):
        if before.wrong != after.wrong:
            change = "gained" if before.wrong else "lost"
            total.changed[after.mention.type, after.mention.written, change] += 1
