"""The counts of tuning on the development set: the cost that it minimises, and the weights that it refuses.

The cost is WER plus EER, each as a share of its value without fusion. A false alarm counts as a wrong mention. Weights
are refused if they

- at least double the false alarms, or
- harm general speech, if the recipe names a guard set (`data.source_dev`): they double its false alarms, or raise its
  WER by more than GUARD.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adapt.score.entity import entity_errors
from adapt.score.wer import align_words, count
from adapt.text.manifest import Utterance
from adapt.text.mentions import PhraseIndex, reference_mentions
from adapt.text.words import words_of

GUARD = 0.02  # weights that raise the WER of general speech by more than this share are refused
REFUSED = 1_000  # added to the cost of refused weights


@dataclass(frozen=True)
class DevCounts:
    """Sums over the development set.

    errors, words: of WER. wrong, mentions: of EER. alarms: false alarms. source_errors, source_words, source_alarms:
    the same on the guard set; 0 without one.
    """

    errors: int
    words: int
    wrong: int
    mentions: int
    alarms: int
    source_errors: int = 0
    source_words: int = 0
    source_alarms: int = 0

    def refused(self, base: DevCounts) -> bool:
        """Whether the weights do too much harm. base: the counts without fusion."""
        doubled = any(count >= 2 * max(1, base_count) for count, base_count in self._alarms(base))
        return doubled or self.source_errors > (1 + GUARD) * base.source_errors

    def cost(self, base: DevCounts) -> float:
        """WER as a share of that of `base`, plus that share for wrong mentions and false alarms if there are mentions.

        If the weights are refused, REFUSED is added, and a number in proportion to the harm.
        """
        cost = self.errors / max(1, base.errors)
        cost += (self.wrong + self.alarms) / max(1, base.wrong + base.alarms) if base.mentions else 0.0
        if self.refused(base):
            harm = self.source_errors / max(1, base.source_errors)
            cost += REFUSED + harm + sum(count / max(1, base_count) for count, base_count in self._alarms(base))
        return cost

    def _alarms(self, base: DevCounts) -> tuple[tuple[int, int], ...]:
        """False alarms with the weights and without fusion, on the development set and on the guard set."""
        return (self.alarms, base.alarms), (self.source_alarms, base.source_alarms)

    @property
    def wer(self) -> float:
        """WER on the development set, as a fraction."""
        return self.errors / max(1, self.words)

    @property
    def source_wer(self) -> float | None:
        """WER on the guard set, as a fraction; None without one."""
        return self.source_errors / self.source_words if self.source_words else None

    @property
    def eer(self) -> float | None:
        """EER on the development set, as a fraction; None without mentions."""
        return self.wrong / self.mentions if self.mentions else None


Judge = Callable[[str], DevCounts]  # from a transcript of one utterance to its counts


def judges(
    utterances: Sequence[Utterance], index: PhraseIndex | None, normalise: Callable[[str], str], source: bool = False
) -> list[Judge]:
    """The judge of each utterance. index: the lexicon, or None. source: True for utterances of the guard set."""

    def judge_of(utterance: Utterance) -> Judge:
        ref = tuple(words_of(normalise(utterance.text)))
        mentions, _ = reference_mentions(ref, utterance, index, normalise)

        def judge(text: str) -> DevCounts:
            hyp = tuple(words_of(normalise(text)))
            ops = align_words(ref, hyp)
            words, entities = count(ref, hyp, ops), entity_errors(ref, hyp, ops, mentions, index)
            errors, alarms = words.substitutions + words.deletions + words.insertions, entities.false_alarms or 0
            if source:
                return DevCounts(0, 0, 0, 0, 0, errors, words.words, alarms)
            return DevCounts(errors, words.words, sum(j.wrong for j in entities.judged), len(mentions), alarms)

        return judge

    return [judge_of(utterance) for utterance in utterances]


def total(counts: Sequence[DevCounts]) -> DevCounts:
    """The sum of the counts of utterances."""
    return DevCounts(*map(sum, zip(*map(dataclasses.astuple, counts), strict=True)))
