"""Of all alignments with the fewest edits, one that keeps the most mentions whole.

Several alignments may have the fewest edits. "i love new york" and "i love new new york" are one insertion apart,
whichever "new" was inserted; but only one choice keeps "new york" whole. No figure may depend on a library's choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

from adapt.score.wer import Op, align_words
from adapt.text.mentions import Mention, Phrase, is_form


def align_for_mentions(
    ref: Phrase, hyp: Phrase, mentions: Sequence[Mention], forms: Sequence[Sequence[Phrase]]
) -> list[Op]:
    """An alignment with the fewest edits and, of these, with the fewest wrong mentions.

    mentions: of `ref`, in order, none overlapping. forms: those of each mention's entity. A mention is right if the
    hypothesis words aligned to it are one of them.

    >>> align_for_mentions(("new", "york"), ("new", "new", "york"), [Mention(0, 2, "city", "")], [[("new", "york")]])
    ... # doctest: +NORMALIZE_WHITESPACE
    [Op(kind='insert', ref_start=0, ref_end=0, hyp_start=0, hyp_end=1),
     Op(kind='equal', ref_start=0, ref_end=2, hyp_start=1, hyp_end=3)]
    """
    grid = _Grid(ref, hyp, mentions, forms)
    return _merged(grid.path())


class _Grid:
    """The costs of aligning the first i words of the reference with the first j of the hypothesis: `costs[i][j]`.

    An edit costs `edit`, more than all mentions together, and a wrong mention 1. Aligning the words of a mention costs
    1 in addition, except by a jump: from the mention's start to its end, over hypothesis words that are a form of it.
    """

    def __init__(self, ref: Phrase, hyp: Phrase, mentions: Sequence[Mention], forms: Sequence[Sequence[Phrase]]):
        self.ref, self.hyp, self.edit = ref, hyp, len(mentions) + 1
        self.jumps = {
            (mention.end, first + len(form)): (mention.start, first)
            for mention, of_mention in zip(mentions, forms, strict=True)
            for form in reversed(of_mention)  # the first form wins
            for first in range(len(hyp) - len(form) + 1)
            if is_form(hyp[first : first + len(form)], form)
        }
        self.ends = {mention.end for mention in mentions}
        ids = {word: number for number, word in enumerate({*ref, *hyp})}
        words = np.array([ids[word] for word in hyp], dtype=np.int64)
        inserted = self.edit * np.arange(len(hyp) + 1)
        self.costs = [inserted]
        for i, word in enumerate(ref, 1):
            row = self.costs[-1] + self.edit
            row[1:] = np.minimum(row[1:], self.costs[-1][:-1] + self.edit * (words != ids[word]))
            row += i in self.ends
            for j, origin in self._jumps_to(i):
                row[j] = min(row[j], self._cost_of_jump(i, j, origin))
            self.costs.append(np.minimum.accumulate(row - inserted) + inserted)

    def _jumps_to(self, i: int) -> list[tuple[int, tuple[int, int]]]:
        """The jumps that end at row i: column and origin."""
        columns = range(len(self.hyp) + 1) if i in self.ends else ()
        return [(j, self.jumps[i, j]) for j in columns if (i, j) in self.jumps]

    def _cost_of_jump(self, i: int, j: int, origin: tuple[int, int]) -> int:
        start, first = origin
        edits = Levenshtein.distance(self.ref[start:i], self.hyp[first:j])
        return int(self.costs[start][first]) + self.edit * edits

    def path(self) -> list[Op]:
        """The operations of a cheapest path, those of single words apart."""
        ops: list[Op] = []
        i, j = len(self.ref), len(self.hyp)
        while i or j:
            cost = int(self.costs[i][j])
            origin = self.jumps.get((i, j))
            if origin and self._cost_of_jump(i, j, origin) == cost:
                inside = align_words(self.ref[origin[0] : i], self.hyp[origin[1] : j])
                i, j = origin
                ops += [
                    Op(op.kind, op.ref_start + i, op.ref_end + i, op.hyp_start + j, op.hyp_end + j)
                    for op in inside[::-1]
                ]
                continue
            if j and self.costs[i][j - 1] + self.edit == cost:
                j -= 1
                ops.append(Op("insert", i, i, j, j + 1))
                continue
            cost -= i in self.ends
            if j and self.costs[i - 1][j - 1] + self.edit * (self.ref[i - 1] != self.hyp[j - 1]) == cost:
                i, j = i - 1, j - 1
                ops.append(Op("equal" if self.ref[i] == self.hyp[j] else "substitute", i, i + 1, j, j + 1))
            else:
                i -= 1
                ops.append(Op("delete", i, i + 1, j, j))
        return ops[::-1]


def _merged(ops: Sequence[Op]) -> list[Op]:
    """The operations with neighbours of the same kind as one."""
    merged: list[Op] = []
    for op in ops:
        if merged and merged[-1].kind == op.kind:
            op = Op(op.kind, merged[-1].ref_start, op.ref_end, merged[-1].hyp_start, op.hyp_end)
            merged.pop()
        merged.append(op)
    return merged
