"""Worked examples: what counts as a wrong mention, a biased word, a false alarm."""

from __future__ import annotations

import itertools

import pytest

from adapt.score.entity import entity_errors
from adapt.score.wer import align_words
from adapt.text.lexicon import Entry, Lexicon, Mention, find_mentions, phrase_index

INDEX = phrase_index(
    Lexicon(
        "m",
        "",
        (
            Entry("let it be", "track"),
            Entry("hello", "track"),
            Entry("queen", "artist"),
            Entry("dancing queen", "track"),
            Entry("iban", "term", ("eye ban", "i b a n")),
        ),
    ),
    str.lower,
)


@pytest.mark.parametrize(
    ("ref", "hyp", "wrong", "biased_errors", "false_alarms"),
    [
        ("play let it be", "play let it be", [False], 0, 0),
        ("play let it be", "play let it see", [True], 1, 0),  # substituted
        ("play let it be", "play let be", [True], 1, 0),  # deleted
        ("play let it be now", "play let it now be now", [True], 1, 0),  # inserted strictly inside
        ("play let it be", "play oh let it be please", [False], 0, 0),  # inserted outside
        ("play let it be", "", [True], 3, 0),
        ("hello and hello", "hello and yellow", [False, True], 1, 0),  # repeats count each
        ("play queen", "play queen queen queen", [False], 2, 2),  # repeated hallucinations
        ("play queen", "play hello", [True], 1, 1),  # one entity heard as another
        ("play hello", "play yellow hello", [False], 0, 0),
        ("stop", "stop queen", [], 1, 1),  # an inserted false alarm is a biased error
        ("play dancing queen", "play queen", [True], 1, 0),  # what is heard was said
        ("my iban please", "my eye ban please", [False], 2, 0),  # a spoken form, longer than the mention
        ("my eye ban please", "my iban please", [False], 2, 0),  # and the other way
        ("my iban please", "my eye pan please", [True], 1, 0),
        ("my iban", "my iban eye ban", [False], 2, 1),  # one mention answers for one form
        ("my iban", "a my i b a n", [False], 4, 0),
        ("", "queen", [], 0, 1),
    ],
)
def test_errors_of_mentions(ref, hyp, wrong, biased_errors, false_alarms):
    ref, hyp = ref.split(), hyp.split()
    errors = entity_errors(ref, hyp, align_words(ref, hyp), find_mentions(ref, INDEX), INDEX)
    assert [judged.wrong for judged in errors.judged] == wrong
    assert errors.false_alarms == false_alarms
    if ref:
        assert errors.biased_errors == biased_errors


def test_annotated_entities_need_no_lexicon():
    words = ["from", "queen", "to", "dancing", "queen"]
    mentions = [Mention(1, 2, "artist", "Queen"), Mention(3, 5, "track", "Dancing Queen")]
    errors = entity_errors(words, words[:4], align_words(words, words[:4]), mentions)
    assert [judged.wrong for judged in errors.judged] == [False, True]
    assert errors.false_alarms is None, "false alarms need a lexicon"


def test_wrong_mentions_equal_the_definition(random_pairs):
    for ref, hyp in random_pairs(500, seed=1):
        ref, hyp = ref.split(), hyp.split()
        ops = align_words(ref, hyp)
        for start, end in itertools.combinations(range(len(ref) + 1), 2):
            wrong = any(
                start < op.ref_start < end
                if op.kind == "insert"
                else op.kind != "equal" and op.ref_start < end and start < op.ref_end
                for op in ops
            )
            errors = entity_errors(ref, hyp, ops, [Mention(start, end, "x", "")])
            assert errors.judged[0].wrong == wrong, (ref, hyp, start, end)
