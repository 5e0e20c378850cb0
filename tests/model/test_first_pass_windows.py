"""Recordings of different lengths are heard in windows of different lengths, and in groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers.models.whisper.modeling_whisper import eager_attention_forward

from adapt.model import transcribing_whisper
from adapt.model.features import pad
from adapt.model.whisper import whisper_log_mel
from tests.model.builders.parts import tiny_whisper, transcribing_llm


@pytest.fixture
def speech_llm(tmp_path):
    return transcribing_llm(tiny_whisper(tmp_path / "w"))


@pytest.fixture
def samples(noise) -> list[np.ndarray]:
    """Of 0.5, 12 and 1.3 s, and of half a second again."""
    long = np.random.default_rng(1).standard_normal(192_000).astype(np.float32) / 30
    return [noise[0], long, noise[2], noise[0][::-1].copy()]


@pytest.mark.parametrize("at_once", [16, 2])
def test_a_recording_is_heard_as_if_it_were_alone(speech_llm, samples, monkeypatch, at_once):
    monkeypatch.setattr(transcribing_whisper, "AT_ONCE", at_once)
    encoder, whisper = speech_llm.model.encoder, speech_llm.model.encoder.encoder
    inputs, mask = encoder.inputs(*pad(samples))
    recorded = mask.sum(-1)
    assert inputs.shape[2] == 1_500, "the window of the longest"
    lists, plain = [(1, [5]), (3, [6]), (0, [7]), (2, [8]), (1, [6])], [[5, 6], [7], [8, 9], [6]]
    written = [[8, 9], [5], [5, 6, 7], [8, 9], [5, 6]]
    heard, _ = encoder.frames(inputs, mask)
    after, _, evidence = whisper.frames_after(inputs, recorded, lists, plain)
    odds = whisper.log_odds(inputs, recorded, lists, plain, written)
    assert odds[3] == 0.0 and all(odds[:3] + odds[4:]), "one transcript is the plain one"
    for i, own in enumerate(samples):
        own_inputs, own_mask = encoder.inputs(*pad([own]))
        alone, (count,) = encoder.frames(own_inputs, own_mask)
        torch.testing.assert_close(heard[i, :count], alone[0], atol=1e-4, rtol=1e-4)
        mine = [n for n, (place, _) in enumerate(lists) if place == i]
        own_lists, own_written = [(0, lists[n][1]) for n in mine], [written[n] for n in mine]
        rows, _, own_evidence = whisper.frames_after(own_inputs, own_mask.sum(-1), own_lists, plain[i : i + 1])
        torch.testing.assert_close(after[mine, :count], rows, atol=1e-4, rtol=1e-4)
        assert [evidence[n] for n in mine] == pytest.approx(own_evidence, abs=1e-3)
        own_odds = whisper.log_odds(own_inputs, own_mask.sum(-1), own_lists, plain[i : i + 1], own_written)
        assert [odds[n] for n in mine] == pytest.approx(own_odds, abs=1e-3)


def test_the_features_are_those_of_thirty_seconds_up_to_the_end_of_the_window(speech_llm, samples):
    config = speech_llm.model.encoder.encoder.config
    padded, lengths = pad(samples)
    features, mask = transcribing_whisper.first_pass_log_mel(config, padded, lengths)
    whole, whole_mask = whisper_log_mel(config, padded, lengths)
    assert whole.shape[2] == 3_000 and mask.sum(-1).equal(whole_mask.sum(-1))
    torch.testing.assert_close(features, whole[..., : features.shape[2]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("beams", "tokens"), [(1, 4), (5, 1), (3, 2)])
def test_beams_share_the_keys_of_their_recording(beams, tokens):
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(2 * beams, 4, tokens, 8, generator=generator)
    key, value = (torch.randn(2, 4, 9, 8, generator=generator) for _ in range(2))
    found = transcribing_whisper.shared_attention(None, query, key, value, None)
    copies = (x.repeat_interleave(beams, 0) for x in (key, value))
    expected = eager_attention_forward(nn.Module(), query, *copies, None, scaling=1.0)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
