"""Word and character errors of one utterance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein


class Op(NamedTuple):
    """A run of one kind (`equal`, `replace`, `delete`, `insert`): reference words and hypothesis words."""

    kind: str
    ref_start: int
    ref_end: int
    hyp_start: int
    hyp_end: int


@dataclass(frozen=True)
class Counts:
    """Errors of one utterance and the reference length, in words and in characters (spaces count)."""

    substitutions: int
    deletions: int
    insertions: int
    words: int
    char_errors: int
    chars: int


def align(ref: Sequence[str], hyp: Sequence[str]) -> list[Op]:
    """Align words at the least number of edits; a `replace` has as many words on either side.

    >>> align("play hello by adele".split(), "please play yellow by".split())
    ... # doctest: +NORMALIZE_WHITESPACE
    [Op(kind='insert', ref_start=0, ref_end=0, hyp_start=0, hyp_end=1),
     Op(kind='equal', ref_start=0, ref_end=1, hyp_start=1, hyp_end=2),
     Op(kind='replace', ref_start=1, ref_end=2, hyp_start=2, hyp_end=3),
     Op(kind='equal', ref_start=2, ref_end=3, hyp_start=3, hyp_end=4),
     Op(kind='delete', ref_start=3, ref_end=4, hyp_start=4, hyp_end=4)]
    """
    if ref == hyp:
        return [Op("equal", 0, len(ref), 0, len(hyp))] if ref else []
    return [Op(*op) for op in Levenshtein.opcodes(ref, hyp)]


def align_is21(ref: Sequence[str], hyp: Sequence[str]) -> list[Op]:
    """Align words as NIST sclite and the is21 scorer weigh them: 4 a substitution, 3 an insertion or a deletion.

    Of alignments that weigh the same it takes, from the end, a match or substitution first, then an insertion, then
    a deletion, which is what the published figures of fbai-speech (is21_deep_bias) hang on.

    >>> align_is21(["a", "b"], ["b"])
    ... # doctest: +NORMALIZE_WHITESPACE
    [Op(kind='delete', ref_start=0, ref_end=1, hyp_start=0, hyp_end=0),
     Op(kind='equal', ref_start=1, ref_end=2, hyp_start=0, hyp_end=1)]
    """
    if ref == hyp:
        return align(ref, hyp)
    weights = [[3 * (i + j) for j in range(len(hyp) + 1)] for i in range(len(ref) + 1)]
    for i, said in enumerate(ref, 1):
        above, row = weights[i - 1], weights[i]
        for j, heard in enumerate(hyp, 1):
            row[j] = min(above[j - 1] + (0 if said == heard else 4), row[j - 1] + 3, above[j] + 3)
    ops: list[Op] = []
    i, j = len(ref), len(hyp)
    while i or j:
        same = i and j and ref[i - 1] == hyp[j - 1]
        if i and j and weights[i][j] == weights[i - 1][j - 1] + (0 if same else 4):
            kind, i, j = "equal" if same else "replace", i - 1, j - 1
            ops.append(Op(kind, i, i + 1, j, j + 1))
        elif j and weights[i][j] == weights[i][j - 1] + 3:
            j -= 1
            ops.append(Op("insert", i, i, j, j + 1))
        else:
            i -= 1
            ops.append(Op("delete", i, i + 1, j, j))
    return ops[::-1]


def count(ref: Sequence[str], hyp: Sequence[str], ops: Sequence[Op]) -> Counts:
    """Count the errors of an alignment.

    >>> ref, hyp = "play hello".split(), "play yellow please".split()
    >>> count(ref, hyp, align(ref, hyp))
    Counts(substitutions=1, deletions=0, insertions=1, words=2, char_errors=9, chars=10)
    """
    errors = {"equal": 0, "replace": 0, "delete": 0, "insert": 0}
    for op in ops:
        errors[op.kind] += max(op.ref_end - op.ref_start, op.hyp_end - op.hyp_start)
    said = " ".join(ref)
    return Counts(
        substitutions=errors["replace"],
        deletions=errors["delete"],
        insertions=errors["insert"],
        words=len(ref),
        char_errors=Levenshtein.distance(said, " ".join(hyp)),
        chars=len(said),
    )
