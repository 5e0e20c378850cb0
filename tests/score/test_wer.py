from __future__ import annotations

import random

import jiwer
import pytest
from rapidfuzz.distance import Levenshtein

from adapt.score.wer import BATCH, Op, align_all, align_is21, align_words, count

WORDS = ["play", "é", "it", "a", "queen"]


@pytest.fixture(scope="module")
def pairs():
    """More than two batches of word lists; either side may be empty."""
    rng = random.Random(0)
    return [tuple(rng.choices(WORDS, k=rng.randint(0, 9)) for _ in range(2)) for _ in range(2 * BATCH + 50)]


def test_batches_align_each_pair_as_alone(pairs):
    assert list(align_all(pairs)) == [align_words(ref, hyp) for ref, hyp in pairs]
    assert list(align_all([])) == []
    assert next(align_all(iter(pairs))) == align_words(*pairs[0]), "pairs may come from a generator"


def test_alignments_are_those_of_jiwer_for_the_texts(pairs):
    theirs = jiwer.process_words([" ".join(ref) for ref, _ in pairs], [" ".join(hyp) for _, hyp in pairs])
    for (ref, hyp), chunks in zip(pairs, theirs.alignments, strict=True):
        fields = [tuple(vars(chunk).values()) for chunk in chunks]
        assert align_words(ref, hyp) == fields, (ref, hyp)


def test_alignments_have_the_fewest_edits_and_lead_from_one_side_to_the_other(pairs):
    for (ref, hyp), ops in zip(pairs, align_all(pairs), strict=True):
        errors = count(ref, hyp, ops)
        edits = errors.substitutions + errors.deletions + errors.insertions
        assert edits == Levenshtein.distance(ref, hyp), (ref, hyp)
        runs = [(op.kind, ref[op.ref_start : op.ref_end], hyp[op.hyp_start : op.hyp_end]) for op in ops]
        assert [word for _, said, _ in runs for word in said] == ref, (ref, hyp)
        assert [word for _, _, heard in runs for word in heard] == hyp, (ref, hyp)
        assert all((said == heard) == (kind == "equal") for kind, said, heard in runs), (ref, hyp)
        assert all(op.ref_end - op.ref_start == op.hyp_end - op.hyp_start for op in ops if op.kind == "substitute")


def test_characters_are_those_of_jiwer(pairs):
    for ref, hyp in pairs[:200]:
        if ref:
            theirs = jiwer.process_characters(" ".join(ref), " ".join(hyp))
            assert count(ref, hyp, []).char_errors == theirs.substitutions + theirs.deletions + theirs.insertions


@pytest.mark.parametrize("aligned", [align_words, align_is21])
def test_an_empty_side_is_all_insertions_or_deletions(aligned):
    assert aligned([], []) == []
    assert aligned(["a"], []) == [Op("delete", 0, 1, 0, 0)]
    assert aligned([], ["a"]) == [Op("insert", 0, 0, 0, 1)]
    assert aligned(("a", "b"), ("a", "b")) == [Op("equal", 0, 2, 0, 2)], "words may stand in tuples"


def test_is21_weighs_two_substitutions_above_a_deletion_and_an_insertion():
    kinds = [op.kind for op in align_is21(["a", "b"], ["b", "c"])]
    assert kinds == ["delete", "equal", "insert"], "weights 3 + 3 against 4 + 4"
