"""The recipe of the base model: its text filter, its speech, and each training stage at a tiny size."""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[2] / "recipes/base"


@pytest.fixture(autouse=True)
def beside_the_recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("text", "speech", "settings", "make"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_music_never_enters_the_text():
    from text import keep

    assert keep("could you tell me where the station is")
    assert not any(map(keep, ["play the next song", "i love this band", "it is 5 o'clock", "yes", "b b b c"]))


def test_held_out_voices_are_never_drawn():
    from speech import DEV_VARIANTS, TEST_VARIANTS, draw_voice, held_out_voice

    rng = random.Random(0)
    drawn = {draw_voice(rng).name for _ in range(3_000)}
    assert "slt" not in drawn
    assert not {name.partition("+")[2] for name in drawn} & {*TEST_VARIANTS, *DEV_VARIANTS}
    assert {held_out_voice("espeak", rng).name.partition("+")[2] for _ in range(50)} == set(TEST_VARIANTS)


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
def test_speech_becomes_a_shard_that_training_reads(tmp_path):
    from speech import Voice, utterance, write_shard

    from adapt.train.base import Shards

    voice = Voice("espeak", "en-us+m1", 160, 50, 1.0)
    made = [utterance((text, voice)) for text in ("where is the station", "good morning to you all")]
    write_shard(tmp_path, 0, made)
    speech = Shards(tmp_path).grow(1)
    assert [item.text for item in speech.items] == ["where is the station", "good morning to you all"]
    samples, lengths = speech.audio(speech.items)
    assert lengths.tolist() == [item.samples for item in speech.items] and not samples[0, lengths[0] :].any()


def test_perturbation_keeps_the_shape_and_is_the_same_for_the_same_seed():
    from adapt.train.base import features_of
    from adapt.train.perturb import perturbed

    lengths = torch.tensor([16_000, 40_000])
    samples = (3_000 * torch.randn(2, 40_000)).short() * (torch.arange(40_000)[None] < lengths[:, None])
    plain, _ = features_of(samples, lengths)
    counts = set()
    for seed in range(30):
        features, mask = perturbed(samples / 32_768, lengths, seed=seed)
        assert features.shape == (*mask.shape, 80) and torch.isfinite(features).all()
        assert not features[~mask].any() and not torch.equal(features[:, :100], plain[:, :100])
        counts.add(int(mask[1].sum()))
    assert len(counts) > 5 and min(counts) > 200
    assert torch.equal(*(perturbed(samples / 32_768, lengths, seed=7)[0] for _ in range(2)))


def test_greedy_path_merges_repeats_and_drops_blanks():
    from adapt.train.base import ctc_greedy

    path = torch.nn.functional.one_hot(torch.tensor([[0, 0, 3, 0, 2, 2, 1, 3, 3, 1]]), 4).float()
    assert ctc_greedy(path, torch.tensor([9]), "ab ") == ["aa b"]


@pytest.fixture
def shards(tmp_path):
    """Twenty 'utterances' in which each letter is a tone of its own, 0.2 s long."""
    from speech import write_shard

    rng = np.random.default_rng(0)
    time = np.arange(3_200) / 16_000
    tones = {c: np.sin(2 * np.pi * pitch * time) for c, pitch in zip("abcd", (300, 900, 2_000, 4_500), strict=True)}
    texts = ["".join(rng.choice(list("abcd"), 3)) for _ in range(20)]
    made = [(t, "tone", (9_000 * np.concatenate([tones[c] for c in t])).astype(np.int16)) for t in texts]
    write_shard(tmp_path, 0, made)
    return tmp_path


def test_each_training_stage_lowers_its_loss(tiny, shards, tmp_path):
    from adapt.train.base import AlignSettings, Shards, align, train_decoder, train_encoder

    alphabet = tiny.model.config.alphabet
    encoder = tiny.model.encoder
    speech, human = Shards(shards), Shards(shards)
    running = {name: value.clone() for name, value in encoder.named_buffers() if "running" in name}
    log = train_encoder(
        encoder, speech, human, {"dev": Shards(shards).grow(1)}, alphabet, steps=60, batch_size=8, shards=1,
        learning_rate=1e-2, batch_statistics=False, short=0.1, folder=tmp_path / "e", bf16=False,
    )  # fmt: skip
    losses = [row["loss"] for row in log if "loss" in row]
    assert losses[-1] < 0.7 * losses[0]
    assert any("wer_dev" in row for row in log)
    now = dict(encoder.named_buffers())
    assert running and all(torch.equal(now[name], value) for name, value in running.items())

    texts = ["play the song", "stop the music", "what is it", "tell me please"] * 8
    log = train_decoder(
        tiny, texts, texts[:4], reads=True, steps=40, batch_size=8, learning_rate=5e-3, folder=tmp_path / "d",
        bf16=False,
    )  # fmt: skip
    assert [row for row in log if "dev_loss" in row][-1]["dev_loss"] < log[0]["dev_loss"]

    before = encoder.ctc_head.weight.clone()
    settings = AlignSettings(40, 8, 1, projector_rate=5e-3, encoder_rate=1e-3, decoder_rate=5e-3, encoder_from=0.5)
    log = align(tiny, speech, human, texts, settings, folder=tmp_path / "a", bf16=False)
    losses = [row["loss"] for row in log if "loss" in row]
    assert losses[1] < losses[0]
    assert not torch.equal(before, encoder.ctc_head.weight)
