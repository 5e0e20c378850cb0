"""Beam search for Whisper's own transcript."""

from __future__ import annotations

import itertools

import pytest
import torch

from adapt.model.first_pass_search import likeliest_tokens

END, TOKENS, LIMIT = 3, 4, 5


def markov(logs, beams):
    """A step whose log probabilities `[rows, TOKENS + 1, TOKENS]` depend on the last token alone; TOKENS: none yet."""

    def step(tokens, order):
        rows = torch.arange(len(logs)).repeat_interleave(beams)
        return logs[rows, TOKENS if tokens is None else tokens[:, 0]]

    return step


def mean_log(logs, text):
    return sum(float(logs[a, b]) for a, b in itertools.pairwise([TOKENS, *text])) / len(text)


@pytest.mark.parametrize("seed", range(5))
def test_with_many_beams_the_likeliest_of_all_texts_is_found(seed):
    logs = torch.randn(2, TOKENS + 1, TOKENS, generator=torch.Generator().manual_seed(seed)).mul(2).log_softmax(-1)
    every = [(*text, END) for n in range(LIMIT) for text in itertools.product(range(END), repeat=n)]
    every += itertools.product(range(END), repeat=LIMIT)
    found = likeliest_tokens(markov(logs, 400), [LIMIT, LIMIT], END, 9, 400)
    for row, text in zip(logs, found, strict=True):
        best = max(every, key=lambda one: mean_log(row, one))
        assert text == [token for token in best if token != END]


def test_one_beam_takes_the_likeliest_token_each_time_and_five_may_find_better():
    table = torch.full((TOKENS + 1, TOKENS), -9.0)
    table[TOKENS, 0], table[TOKENS, 1] = 1.0, 0.8
    table[0, END], table[0, 2], table[1, END] = 0.0, 0.1, 5.0
    table[2, END] = 0.0
    logs = table.log_softmax(-1)[None]
    assert likeliest_tokens(markov(logs, 1), [LIMIT], END, 9, 1) == [[0, 2]]
    assert likeliest_tokens(markov(logs, 5), [LIMIT], END, 9, 5) == [[1]]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_text_ends_before_it_repeats_itself_and_at_its_limit(beams):
    table = torch.full((TOKENS + 1, TOKENS), -90.0)
    for before, after in ((TOKENS, 0), (0, 1), (1, 2), (2, 0)):
        table[before, after] = 0.0  # 0 1 2 0 1 2 ...
    logs = table.log_softmax(-1).repeat(2, 1, 1)
    assert likeliest_tokens(markov(logs, beams), [9, 4], END, 3, beams) == [[0, 1, 2], [0, 1, 2, 0]]
