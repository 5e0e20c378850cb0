"""Word and character errors. jiwer aligns the words, except by the is21 convention, whose alignment is here."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jiwer
import numpy as np
from rapidfuzz.distance import Levenshtein

from adapt.text.words import joined

Words = Sequence[str]

# Utterances in a call of jiwer. A call costs more than the alignment of one utterance, and a large one makes objects
# faster than the garbage collector likes. 100,000 utterances of 10 words, a third of them without an error, take 1.7 s
# one by one, 0.6 s in batches of 32 and 1.6 s in a single batch.
BATCH = 32


class Op(NamedTuple):
    """A run of reference words and the hypothesis words aligned to it; ends are exclusive.

    kind: `equal`, `substitute`, `delete` or `insert`. A `substitute` has as many words on either side.
    """

    kind: str
    ref_start: int
    ref_end: int
    hyp_start: int
    hyp_end: int


@dataclass(frozen=True)
class WordErrors:
    """Errors of one utterance and the length of its reference, in words and in characters (spaces count)."""

    substitutions: int
    deletions: int
    insertions: int
    words: int
    char_errors: int
    chars: int


def align_words(ref: Words, hyp: Words) -> list[Op]:
    """Align the words of one utterance with the fewest edits. Use `align_all` for many utterances: it is faster.

    >>> align_words("play hello by adele".split(), "please play yellow by".split())
    ... # doctest: +NORMALIZE_WHITESPACE
    [Op(kind='insert', ref_start=0, ref_end=0, hyp_start=0, hyp_end=1),
     Op(kind='equal', ref_start=0, ref_end=1, hyp_start=1, hyp_end=2),
     Op(kind='substitute', ref_start=1, ref_end=2, hyp_start=2, hyp_end=3),
     Op(kind='equal', ref_start=2, ref_end=3, hyp_start=3, hyp_end=4),
     Op(kind='delete', ref_start=3, ref_end=4, hyp_start=4, hyp_end=4)]
    """
    return next(align_all([(ref, hyp)]))


def align_all(pairs: Iterable[tuple[Words, Words]]) -> Iterator[list[Op]]:
    """The alignment of each (reference, hypothesis) pair with the fewest edits, in order.

    Either side may be empty. If both are, the list is empty.
    """
    pairs = iter(pairs)
    while batch := list(itertools.islice(pairs, BATCH)):
        unequal = [(list(ref), list(hyp)) for ref, hyp in batch if ref != hyp]
        aligned = iter(_align_unequal(unequal) if unequal else ())
        for ref, hyp in batch:
            yield next(aligned) if ref != hyp else _align_equal(ref)


def _align_equal(words: Words) -> list[Op]:
    """The alignment of a reference and an equal hypothesis."""
    return [Op("equal", 0, len(words), 0, len(words))] if words else []


def _align_unequal(pairs: Sequence[tuple[list[str], list[str]]]) -> Iterator[list[Op]]:
    """The alignment of each pair by jiwer."""

    def split_already(sentences: list[list[str]]) -> list[list[str]]:  # in place of jiwer's splitting of strings
        return sentences

    refs, hyps = map(list, zip(*pairs, strict=True))
    for chunks in jiwer.process_words(refs, hyps, split_already, split_already).alignments:
        yield [Op(c.type, c.ref_start_idx, c.ref_end_idx, c.hyp_start_idx, c.hyp_end_idx) for c in chunks]


def align_is21(ref: Words, hyp: Words) -> list[Op]:
    """Align words with the weights of NIST sclite and the is21 scorer: 4 a substitution, 3 an insertion or a deletion.

    jiwer gives all edits the same weight and cannot do this. Of alignments with the same weight, the one is taken that
    prefers, from the end, a match or substitution, then an insertion, then a deletion, as fbai-speech's is21_deep_bias
    does: its published figures depend on that.

    >>> align_is21(["a", "b"], ["b"])
    ... # doctest: +NORMALIZE_WHITESPACE
    [Op(kind='delete', ref_start=0, ref_end=1, hyp_start=0, hyp_end=0),
     Op(kind='equal', ref_start=1, ref_end=2, hyp_start=0, hyp_end=1)]
    """
    if ref == hyp:
        return _align_equal(ref)
    ids = {word: number for number, word in enumerate({*ref, *hyp})}
    words = np.array([ids[word] for word in hyp], dtype=np.int64)
    inserted = 3 * np.arange(len(hyp) + 1, dtype=np.int32)
    weights = [inserted]  # weights[i][j]: of the first i words of the reference and the first j of the hypothesis
    for word in ref:
        row = weights[-1] + 3
        row[1:] = np.minimum(row[1:], weights[-1][:-1] + 4 * (words != ids[word]))
        weights.append((np.minimum.accumulate(row - inserted) + inserted).astype(np.int32))
    ops: list[Op] = []
    i, j = len(ref), len(hyp)
    while i or j:
        same = i and j and ref[i - 1] == hyp[j - 1]
        if i and j and weights[i][j] == weights[i - 1][j - 1] + (0 if same else 4):
            kind, i, j = "equal" if same else "substitute", i - 1, j - 1
            ops.append(Op(kind, i, i + 1, j, j + 1))
        elif j and weights[i][j] == weights[i][j - 1] + 3:
            j -= 1
            ops.append(Op("insert", i, i, j, j + 1))
        else:
            i -= 1
            ops.append(Op("delete", i, i + 1, j, j))
    return ops[::-1]


def count(ref: Words, hyp: Words, ops: Iterable[Op]) -> WordErrors:
    """Count the errors of one utterance: words from its alignment, characters as the Levenshtein distance.

    >>> ref, hyp = "play hello".split(), "play yellow please".split()
    >>> count(ref, hyp, align_words(ref, hyp))
    WordErrors(substitutions=1, deletions=0, insertions=1, words=2, char_errors=9, chars=10)
    """
    errors = {"equal": 0, "substitute": 0, "delete": 0, "insert": 0}
    for op in ops:
        errors[op.kind] += max(op.ref_end - op.ref_start, op.hyp_end - op.hyp_start)
    ref_text = joined(ref)
    return WordErrors(
        substitutions=errors["substitute"],
        deletions=errors["delete"],
        insertions=errors["insert"],
        words=len(ref),
        # The same count as jiwer.process_characters, from the library that it is built on, without the alignment, which
        # would take five times as long and is not needed.
        char_errors=Levenshtein.distance(ref_text, joined(hyp)),
        chars=len(ref_text),
    )
