"""Worked examples: what counts as a wrong mention, a biased word, a false alarm."""

from __future__ import annotations

import functools
import itertools
import random

import pytest

from adapt.score.entity import entity_errors
from adapt.score.wer import align_is21, align_words
from adapt.text.lexicon import Entry, Lexicon
from adapt.text.mentions import Mention, find_mentions, phrase_index

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
        ("my iban please", "my eye ban please", [False], 0, 0),  # a spoken form, longer than the mention
        ("my eye ban please", "my iban please", [False], 0, 0),  # and the other way
        ("my iban please", "my eye pan please", [True], 1, 0),
        ("my iban", "my iban eye ban", [False], 2, 1),  # one mention answers for one form
        ("my iban", "a my i b a n", [False], 0, 0),
        ("", "queen", [], 0, 1),
        ("play queen's hits", "play queen hits", [False], 0, 0),  # the name was heard
        ("play queen hits", "play queen's hits", [False], 0, 0),
        ("play queen's hits", "play queens hits", [True], 1, 0),
        ("play hits", "play queen's hits", [], 1, 1),
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


def test_wrong_mentions_are_the_fewest_of_all_alignments_with_the_fewest_edits(random_pairs):
    for ref, hyp in random_pairs(200, seed=1):
        ref, hyp = ref.split(), hyp.split()
        ops, everything = align_words(ref, hyp), _alignments(tuple(ref), tuple(hyp))
        spans = list(itertools.combinations(range(len(ref) + 1), 2))
        for first, second in itertools.product([None, *spans], spans):
            if first and first[1] > second[0]:
                continue
            mentions = [Mention(start, end, "x", "") for start, end in filter(None, (first, second))]
            errors = entity_errors(ref, hyp, ops, mentions)
            fewest = min(sum(_is_wrong(alignment, m) for m in mentions) for alignment in everything)
            assert sum(judged.wrong for judged in errors.judged) == fewest, (ref, hyp, first, second)


def _alignments(ref: tuple[str, ...], hyp: tuple[str, ...]) -> list[list[str]]:
    """All alignments with the fewest edits, each a list of `=`, `s` (substitution), `d` and `i`."""

    @functools.cache
    def all_from(i: int, j: int) -> list[str]:
        if i == len(ref) and j == len(hyp):
            return [""]
        ways = []
        if i < len(ref) and j < len(hyp):
            ways += [("=" if ref[i] == hyp[j] else "s") + rest for rest in all_from(i + 1, j + 1)]
        ways += ["d" + rest for rest in all_from(i + 1, j)] if i < len(ref) else []
        ways += ["i" + rest for rest in all_from(i, j + 1)] if j < len(hyp) else []
        fewest = min(map(_edits, ways))
        return [way for way in ways if _edits(way) == fewest]

    return all_from(0, 0)


def _edits(alignment: str) -> int:
    return len(alignment) - alignment.count("=")


def _is_wrong(alignment: str, mention: Mention) -> bool:
    place = 0
    for op in alignment:
        if op == "i":
            if mention.start < place < mention.end:
                return True
        else:
            if op != "=" and mention.start <= place < mention.end:
                return True
            place += 1
    return False


def test_a_word_inserted_beside_a_mention_does_not_make_it_wrong():
    rng = random.Random(1)
    for _ in range(2000):
        words = [rng.choice("abc") for _ in range(rng.randint(2, 8))]
        start, end = sorted(rng.sample(range(len(words) + 1), 2))
        place = rng.choice([*range(start + 1), *range(end, len(words) + 1)])
        heard = [*words[:place], rng.choice("abcd"), *words[place:]]
        mention = Mention(start, end, "x", "")
        for ops in (align_words(words, heard), align_is21(words, heard)):
            assert not entity_errors(words, heard, ops, [mention]).judged[0].wrong, (words, heard, mention)


@pytest.mark.parametrize(
    ("hyp", "false_alarms"), [("i love new new york", 0), ("i love new york york", 0), ("i love york new york", 0)]
)
def test_a_stutter_is_no_entity_error_by_any_convention(hyp, false_alarms):
    index = phrase_index(Lexicon("m", "", (Entry("new york", "city"),)), str.lower)
    ref, hyp = ["i", "love", "new", "york"], hyp.split()
    for align in (align_words, align_is21):
        errors = entity_errors(ref, hyp, align(ref, hyp), find_mentions(ref, index), index)
        assert not errors.judged[0].wrong
        assert errors.false_alarms == false_alarms
