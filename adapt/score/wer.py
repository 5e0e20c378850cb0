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
