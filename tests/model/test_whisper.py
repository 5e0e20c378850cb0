"""Whisper's encoder on windows as long as the recordings."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
import transformers

from adapt.model.encoders import pretrained
from adapt.model.features import pad, read_audio
from adapt.model.whisper import MARGIN

SIZES = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
SIZES |= {"decoder_layers": 1, "decoder_attention_heads": 2, "vocab_size": 100}
SIZES |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1)
RECORDINGS = Path(__file__).parents[2] / "recipes/music/audio/test"


@pytest.fixture
def whisper(tmp_path) -> str:
    torch.manual_seed(0)
    transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**SIZES)).save_pretrained(tmp_path / "w")
    return str(tmp_path / "w")


def test_a_recording_in_a_short_window_does_not_depend_on_its_batch(whisper, noise):
    encoder = pretrained(whisper, "ab", window="recording")
    encoder.eval()
    with torch.no_grad():
        together, counts = encoder.frames(*encoder.inputs(*pad(noise)))
        for samples, row, count in zip(noise, together, counts.tolist(), strict=True):
            (alone,), (same,) = encoder.frames(*encoder.inputs(*pad([samples])))
            assert same == count == (math.ceil(len(samples) / 160) + MARGIN + 1) // 2  # 160 samples a filterbank frame
            torch.testing.assert_close(alone[:count], row[:count], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("window", ["recording", "full"])
def test_lower_frames_and_the_tuned_layers_above_them_make_the_frames(window, whisper, noise):
    encoder = pretrained(whisper, "ab", window=window, tuned_layers=1).eval()
    with torch.no_grad():
        lower, counts = encoder.lower_frames(*encoder.inputs(*pad(noise)))
        together, _ = encoder.frames(*encoder.inputs(*pad(noise)))
        for row, count, expected in zip(lower, counts.tolist(), together, strict=True):
            (alone,), _ = encoder.upper_frames(row[None, :count], torch.tensor([count]))
            torch.testing.assert_close(alone, expected[:count], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(lower, together, atol=1e-2)


def test_the_full_window_is_that_of_transformers(whisper, noise):
    encoder = pretrained(whisper, "ab").eval()
    inputs, mask = encoder.inputs(*pad(noise))
    assert inputs.shape[2] == 3_000
    theirs = transformers.WhisperModel.from_pretrained(whisper).encoder.eval()
    with torch.no_grad():
        frames, counts = encoder.frames(inputs, mask)
        for row, other, count in zip(frames, theirs(inputs).last_hidden_state, counts.tolist(), strict=True):
            assert torch.equal(row[:count], other[:count])


@pytest.mark.slow
@pytest.mark.skipif("ADAPT_PARTS" not in os.environ, reason="needs ADAPT_PARTS, a folder with whisper-base")
def test_short_windows_give_nearly_the_frames_of_full_ones_with_real_weights():
    encoders = [
        pretrained(f"{os.environ['ADAPT_PARTS']}/whisper-base", "ab", window=w).eval() for w in ("recording", "full")
    ]
    cosines = []
    for path in sorted(RECORDINGS.glob("*.ogg"))[:20]:
        samples = pad([read_audio(path)])
        with torch.no_grad():
            (short,), (full,) = (
                [row[:n] for row, n in zip(*e.frames(*e.inputs(*samples)), strict=True)] for e in encoders
            )
        cosines.append(torch.nn.functional.cosine_similarity(short[: len(full)], full, dim=-1))  # without the margin
    assert torch.cat(cosines).mean() > 0.9, "the frames differ, but little"
