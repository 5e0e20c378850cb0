from __future__ import annotations

import logging

import pytest
import torch

from adapt.errors import TrainingError
from adapt.recipe.base import Encoder
from adapt.train.encoder import train_encoder
from adapt.train.speech import read_speech

MORE = {"temperature": 1.0, "seed": 1, "bf16": False}


def settings(**changes) -> Encoder:
    return Encoder(**{"batch_seconds": 5.0, "warmup_steps": 5, "short_first": 0.1, **changes})


def test_training_lowers_the_loss_and_keeps_running_statistics(tiny, manifest, tmp_path):
    encoder, speech = tiny.model.encoder, read_speech(manifest, str)
    before = {name: value.clone() for name, value in encoder.named_buffers() if "running" in name}
    how = settings(steps=60, learning_rate=1e-2, running_statistics=1.0)
    log = train_encoder(encoder, speech, speech, how, folder=tmp_path, **MORE)
    losses = [row["loss"] for row in log if "loss" in row]
    assert losses[-1] < 0.7 * losses[0], "the loss falls"
    assert any("wer" in row for row in log), "the log has WERs"
    now = dict(encoder.named_buffers())
    assert before and all(torch.equal(now[name], value) for name, value in before.items()), "statistics are constant"


def test_batch_statistics_are_used_until_the_last_share_of_the_steps(tiny, manifest, tmp_path):
    encoder, speech = tiny.model.encoder, read_speech(manifest, str)
    before = {name: value.clone() for name, value in encoder.named_buffers() if "running_mean" in name}
    how = settings(steps=4, learning_rate=1e-3, running_statistics=0.5)
    train_encoder(encoder, speech, speech, how, folder=tmp_path, **MORE)
    now = dict(encoder.named_buffers())
    assert before and not any(torch.equal(now[name], value) for name, value in before.items())


def test_an_exploding_loss_stops_the_training_with_its_cause(tiny, manifest, tmp_path):
    speech = read_speech(manifest, str)
    how = settings(steps=60, learning_rate=1e4, warmup_steps=0, running_statistics=0.0)
    with pytest.raises(TrainingError, match=r"encoder: the loss exploded, .* lower the learning rate"):
        train_encoder(tiny.model.encoder, speech, speech, how, folder=tmp_path, **MORE)


def test_an_encoder_that_outputs_blanks_alone_is_reported(tiny, manifest, tmp_path, caplog):
    speech = read_speech(manifest, str)
    with torch.no_grad():
        tiny.model.encoder.ctc_head.bias[-1] = 1e3
    how = settings(steps=20, learning_rate=1e-6, running_statistics=1.0)
    with caplog.at_level(logging.WARNING):
        log = train_encoder(tiny.model.encoder, speech, speech, how, folder=tmp_path, **MORE)
    assert "all CTC hypotheses are empty" in caplog.text
    assert {row["wer"] for row in log if "wer" in row} == {1.0}, "empty hypotheses have a WER of 1"
