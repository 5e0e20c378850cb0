"""Lexicon boosting: a whole sentence gets the bonus of its completed phrases, and nothing for the others."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.lm.boosting import boosting_automaton
from adapt.lm.phrases import Phrase

# Tokens 0 to 5 begin a word, 6 to 9 continue one, 10 is the end, 11 is special.
BEGINS = np.array([True] * 6 + [False] * 4 + [True, True])
END, SPECIAL = 10, 11


def bonus(length: int, weight: float = 1.0) -> float:
    """The bonus of a phrase."""
    return weight * sum(1 + math.log(d) for d in range(1, length + 1))


def automaton_of(*lists):
    """The automaton of a list of phrases for each utterance."""
    lists = [[Phrase(tuple(p), tuple(p)) for p in phrases] for phrases in lists]
    return boosting_automaton(lists, BEGINS, ends=[END], special=[SPECIAL])


def total(automaton, tokens, start: int = 0) -> float:
    return float(automaton.totals([tokens], automaton.starts[start].view(1))[0])


@pytest.mark.parametrize(
    ("tokens", "worth"),
    [
        ([0, 1, 2], bonus(3)),  # the whole phrase
        ([3, 0, 1, 2, 4], bonus(3)),
        ([0, 1, 3], 0.0),  # entered, and not completed
        ([0, 1], 0.0),
        ([0, 1, 2, 7], 0.0),  # the last word continues: it is another word
        ([0, 1, 2, 0, 1, 2], 2 * bonus(3)),
        ([0, 0, 1, 2], bonus(3)),  # a false start costs nothing
        ([4, 6], bonus(2)),  # a word of two tokens
        ([4, 6, 7], 0.0),
        ([4, 6, 4, 6], 2 * bonus(2)),
        ([6, 0, 1, 2], bonus(3)),
        ([SPECIAL, 0, SPECIAL, 1, 2], bonus(3)),  # special tokens change nothing
        ([], 0.0),
    ],
)
def test_a_sentence_gets_the_bonus_of_its_phrases(tokens, worth):
    assert total(automaton_of([[0, 1, 2], [4, 6]]), tokens) == pytest.approx(worth, abs=1e-5)


def test_a_phrase_within_another_has_no_bonus_of_its_own():
    automaton = automaton_of([[0, 1, 2], [1, 2], [2, 3, 4, 5]])
    assert total(automaton, [0, 1, 2]) == pytest.approx(bonus(3), abs=1e-5)
    assert total(automaton, [5, 1, 2]) == pytest.approx(bonus(2), abs=1e-5)
    assert total(automaton, [1, 2, 3]) == pytest.approx(bonus(2), abs=1e-5)
    assert total(automaton_of([[0], [0, 1, 2]]), [0, 1, 3]) == pytest.approx(bonus(1), abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=6),
    st.lists(st.integers(0, 9), max_size=12),
)
def test_whole_vocabulary_equals_single_tokens_and_totals_stay_in_bounds(phrases, tokens):
    phrases = [[p[0] % 6, *p[1:]] for p in phrases]
    automaton = automaton_of(phrases)
    state, everything = automaton.start(1), torch.arange(12)[None]
    for token in tokens:
        scores, targets = automaton.advance(state)
        alone, where = automaton.step(state, everything)
        torch.testing.assert_close(scores, alone, atol=1e-5, rtol=0)
        assert torch.equal(targets, where)
        state = targets[:, token]
    sentence = [*tokens, END]
    found = [
        bonus(len(p))
        for p in {tuple(p) for p in phrases}
        for i in range(len(tokens))
        if tuple(sentence[i : i + len(p)]) == p and BEGINS[sentence[i + len(p)]]
    ]
    worth = total(automaton, tokens)
    assert -1e-4 <= worth <= sum(found) + 1e-4
    assert bool(found) == (worth > 1e-4)


def test_the_share_of_the_first_token_comes_with_the_last():
    automaton = automaton_of([[0, 1, 2], [3]])
    state, given = automaton.start(1), []
    for token in (0, 1, 2):
        scores, targets = automaton.advance(state)
        given.append(float(scores[0, token]))
        state = targets[:, token]
    assert given == pytest.approx([0, 1 + math.log(2), 2 + math.log(3)], abs=1e-5)
    assert float(automaton.advance(automaton.start(1))[0][0, 3]) == pytest.approx(1, abs=1e-5)


def test_each_utterance_has_its_own_phrases():
    automaton = automaton_of([[0, 1]], [[2, 3], [0, 4]], [])
    for start, (tokens, worth) in enumerate(
        [([2, 3, 0, 1], bonus(2)), ([5, 2, 3, 0, 4], 2 * bonus(2)), ([0, 1, 2, 3], 0)]
    ):
        assert total(automaton, tokens, start) == pytest.approx(worth, abs=1e-5)
    assert automaton.start(6).tolist() == [s for s in automaton.starts.tolist() for _ in range(2)]


def test_a_phrase_has_its_weight_also_at_the_beginning_of_a_sentence():
    heavy = Phrase((0, 1), (6, 1), 3.0)  # another token at the beginning of a sentence
    light = Phrase((0, 1, 2), (6, 1, 2), 1.0)
    automaton = boosting_automaton([[heavy, light]], BEGINS, ends=[END])
    assert total(automaton, [6, 1]) == total(automaton, [0, 1]) == pytest.approx(bonus(2, 3.0), abs=1e-5)
    assert total(automaton, [3, 6, 1]) == pytest.approx(0, abs=1e-5)
    assert total(automaton, [0, 1, 2]) == pytest.approx(bonus(2, 3.0), abs=1e-5)  # the heavy phrase was completed, too


def test_scores_of_thousands_of_phrases_equal_those_of_single_steps():
    rng = random.Random(0)
    phrases = {(rng.randrange(500), *(rng.randrange(1000) for _ in range(rng.randint(1, 5)))) for _ in range(5_000)}
    begins = np.arange(1000) < 500
    automaton = boosting_automaton([[Phrase(p, p) for p in phrases]], begins)
    states = torch.tensor(rng.sample(range(len(automaton.backoff)), 20))
    scores, targets = automaton.advance(states)
    alone, where = automaton.step(states, torch.arange(1000).expand(20, -1))
    torch.testing.assert_close(scores, alone, atol=1e-5, rtol=0)
    assert torch.equal(targets, where)
