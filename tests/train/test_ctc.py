from __future__ import annotations

import numpy as np
import pytest
import torch

from adapt.train.ctc import ctc_ids, ctc_loss, ctc_texts, greedy
from adapt.train.frames import frames_in_order
from adapt.train.speech import read_speech


def test_ctc_loss_is_zero_for_a_target_that_is_too_long_for_its_frames():
    logits = torch.zeros(2, 4, 3)
    loss = ctc_loss(logits, torch.tensor([4, 2]), [[0], [0, 1, 0]], blank=2)
    paths = 10  # of 3 ** 4, those that spell one letter: its run has 4, 3, 2 or 1 of the 4 frames
    assert loss.item() == pytest.approx(-np.log(paths / 3**4) / 2, abs=1e-5)


def test_a_greedy_path_becomes_text():
    assert greedy("aa__a b") == "aa b"
    assert ctc_ids("bé a", "ab ") == [1, 2, 0]


def test_every_recording_has_a_reference_and_a_hypothesis(tiny, manifest):
    speech = read_speech(manifest, str)
    batches = frames_in_order(tiny.model.encoder, speech, frozen=False)
    references, hypotheses = ctc_texts(tiny.model.encoder, batches())
    assert references == [item.text for item in speech.items] and len(hypotheses) == len(references)
    with torch.no_grad():
        tiny.model.encoder.ctc_head.bias[-1] = 1e3
    assert not any(ctc_texts(tiny.model.encoder, batches())[1]), "an encoder that outputs blanks has empty hypotheses"
