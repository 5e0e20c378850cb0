"""What tuning counts on the development set, what it minimises, and what it refuses.

The cost is WER plus EER, each as a share of its value without fusion. A false alarm counts as a wrong mention. Weights
are refused if they

- at least double the false alarms, or
- harm general speech, if the recipe names some (`data.source_dev`): they double its false alarms, or raise its WER by
  more than GUARD.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adapt.score.entity import entity_errors
from adapt.score.wer import align, count
from adapt.text.corpus import Utterance
from adapt.text.lexicon import PhraseIndex, find_mentions, place_entities

GUARD = 0.02  # weights that raise the WER of general speech by more than this share are refused
REFUSED = 1_000  # added to the cost of refused weights


@dataclass(frozen=True)
class DevCounts:
    """Sums over the development set. source: of general speech."""

    errors: int
    words: int
    wrong: int
    mentions: int
    alarms: int
    source_errors: int = 0
    source_words: int = 0
    source_alarms: int = 0

    def refused(self, base: DevCounts) -> bool:
        """Whether the weights do more harm than they may. base: the counts without fusion."""
        alarms = any(mine >= 2 * max(1, its) for mine, its in self._alarms(base))
        return alarms or self.source_errors > (1 + GUARD) * base.source_errors

    def cost(self, base: DevCounts) -> float:
        """WER as a share of that of `base`, plus, if there are mentions, the same of wrong ones and false alarms.

        If the weights are refused, REFUSED is added, and more in proportion to the harm.
        """
        cost = self.errors / max(1, base.errors)
        cost += (self.wrong + self.alarms) / max(1, base.wrong + base.alarms) if base.mentions else 0.0
        if self.refused(base):
            harm = self.source_errors / max(1, base.source_errors)
            cost += REFUSED + harm + sum(mine / max(1, its) for mine, its in self._alarms(base))
        return cost

    def _alarms(self, base: DevCounts) -> tuple[tuple[int, int], ...]:
        return (self.alarms, base.alarms), (self.source_alarms, base.source_alarms)

    @property
    def wer(self) -> float:
        return self.errors / max(1, self.words)

    @property
    def source_wer(self) -> float | None:
        return self.source_errors / self.source_words if self.source_words else None

    @property
    def eer(self) -> float | None:
        return self.wrong / self.mentions if self.mentions else None


Judge = Callable[[str], DevCounts]  # counts a transcript of one utterance


def judges(
    utterances: Sequence[Utterance], index: PhraseIndex | None, normalise: Callable[[str], str], source: bool = False
) -> list[Judge]:
    """The judge of each utterance. index: the lexicon. source: general speech, whose mentions do not count."""

    def judge_of(utterance: Utterance) -> Judge:
        ref = tuple(normalise(utterance.text).split())
        if utterance.entities is not None:
            mentions = place_entities(ref, utterance.entities, normalise)[0]
        else:
            mentions = find_mentions(ref, index) if index else []

        def judge(text: str) -> DevCounts:
            hyp = tuple(normalise(text).split())
            ops = align(ref, hyp)
            c, e = count(ref, hyp, ops), entity_errors(ref, hyp, ops, mentions, index)
            errors, alarms = c.substitutions + c.deletions + c.insertions, e.false_alarms or 0
            if source:
                return DevCounts(0, 0, 0, 0, 0, errors, c.words, alarms)
            return DevCounts(errors, c.words, sum(j.wrong for j in e.judged), len(mentions), alarms)

        return judge

    return [judge_of(utterance) for utterance in utterances]


def total(counts: Sequence[DevCounts]) -> DevCounts:
    return DevCounts(*map(sum, zip(*map(dataclasses.astuple, counts), strict=True)))
