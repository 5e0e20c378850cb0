from __future__ import annotations

import random

import pytest
import torch

from adapt.recipe.base import Llm
from adapt.train.ctc import greedy
from adapt.train.pseudo_audio import symbol_ids, with_durations
from adapt.train.reader import frames_after, text_batches, train_reader

MORE = {"seed": 1, "bf16": False}


def test_a_letter_is_found_in_the_frame_in_which_it_begins():
    rng = random.Random(1)
    for text in ("all seats wooo", "see eels", "a b"):
        for end in range(1, len(text) + 1):
            path = with_durations(text, rng)
            (frame,) = frames_after(path, text, [end])
            assert greedy(path[:frame]) == text[:end].strip()
            complete = frame == len(path)
            assert complete or greedy(path[: frame + 1]).replace(" ", "") == text[: end + 1].replace(" ", "")
    assert frames_after("___", "so", [1, 2]) == [3, 3], "a path of blanks has no letter"
    assert frames_after("ss__t__", "so at", [2, 5]) == [4, 7], "path and text may differ"


def test_every_target_comes_once_before_any_comes_twice():
    targets = [[0] * (1 + i % 5) for i in range(20)]
    batch_of = text_batches(targets, batch_size=4)
    for epoch in range(2):
        drawn = [batch_of(5 * epoch + step) for step in range(5)]
        assert sorted(i for batch in drawn for i in batch) == list(range(20))
        assert all(len({len(targets[i]) for i in batch}) <= 2 for batch in drawn), "lengths are similar"


def test_a_reader_has_a_label_for_each_token_in_its_slot(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("adapt.train.reader.fit", lambda model, batch_of, *args, **kwargs: batch_of(0))
    text, settings = "stop the music", Llm(read_steps=9, batch_size=1)
    batch = train_reader(tiny, [text], [text], settings, reads=True, noise=0.0, folder=tmp_path, **MORE)
    target, ids, labels = tiny.target_ids(text), batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    assert labels[-len(target) :] == target, "the sentence after the slot has labels"
    labelled = [place for place, token in enumerate(labels[: -len(target)]) if token >= 0]
    assert [labels[place] for place in labelled] == target[:-2], "no letter follows the last token in the slot"
    letters = {index: symbol for symbol, index in symbol_ids(tiny).items()}
    for n, place in enumerate(labelled):
        seen = greedy("".join(letters[i] for i in ids[len(tiny.before) : place]))
        known = text[: len(tiny.tokenizer.decode(target[: n + 1])) + 1].strip()
        assert seen == known, "a token is predicted at the first letter after it"


@pytest.mark.parametrize("reads", [False, True])
def test_training_lowers_the_loss(reads, tiny, tmp_path):
    texts = ["play the song", "stop the music", "what is it", "tell me please", "this né"] * 8  # no token for é
    settings = Llm(lm_steps=40, lm_rate=5e-3, read_steps=40, read_rate=5e-3, batch_size=8)
    encoder = {name: value.clone() for name, value in tiny.model.encoder.state_dict().items()}
    log = train_reader(tiny, texts, texts[:4], settings, reads=reads, folder=tmp_path, **MORE)
    rows = [row for row in log if "dev_loss" in row]
    assert rows[-1]["dev_loss"] < rows[0]["dev_loss"]
    now = tiny.model.encoder.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in encoder.items()), "only the decoder changes"
