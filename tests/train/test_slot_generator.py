"""The network that generates audio embeddings, trained on some of the replayed recordings of the recipe for music."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from adapt.model.features import read_audio
from adapt.model.load import load_speech_llm
from adapt.model.slot_generator import SlotGenerator, load_slot_generator
from adapt.text.manifest import read_manifest
from adapt.train.common import TrainingResult
from adapt.train.slot_generator import HELD_OUT, learn_slot_generator

REPLAY = Path(__file__).parents[2] / "recipes/music/source/replay.jsonl"
STEPS = 60


@dataclass(frozen=True)
class Learned:
    """Transcripts with their real audio embeddings, and a generator that was trained on most of them."""

    texts: list[str]
    real: list[torch.Tensor]
    result: TrainingResult
    generator: SlotGenerator


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> Learned:
    """A generator trained on 80 recordings."""
    utterances, speech_llm = read_manifest(REPLAY)[:80], load_speech_llm("tiny", "cpu")
    texts = [u.text for u in utterances]
    real = speech_llm.audio_embeddings([read_audio(u.audio) for u in utterances])
    folder = tmp_path_factory.mktemp("generator")
    out = folder / "out/generator.safetensors"
    result = learn_slot_generator(texts, real, folder=folder, out=out, seed=1, steps=STEPS)
    return Learned(texts, real, result, load_slot_generator(out, torch.device("cpu")))


def test_on_recordings_kept_out_the_network_is_better_than_the_mean_embedding(learned):
    best = next(row for row in learned.result.log if row["step"] == learned.result.best_step and "dev_loss" in row)
    unheard, heard = (
        torch.cat([row for i, row in enumerate(learned.real) if (i % HELD_OUT == 0) == of]) for of in (1, 0)
    )
    mean, deviation = heard.mean(0), heard.std(0)
    of_mean = ((unheard - mean) / deviation).square().mean().item()
    similar_to_mean = torch.cosine_similarity(unheard, mean[None]).mean().item()
    assert learned.result.best_step > 0 and best["dev_loss"] < 0.75 * of_mean
    assert best["cosine"] > similar_to_mean + 0.1
    residuals = learned.generator.residuals
    assert residuals.shape == unheard.shape, "those of every slot that was kept out"
    assert residuals.square().mean().item() == pytest.approx(best["dev_loss"], rel=1e-4), "of the checkpoint kept"


def test_a_sentence_has_about_as_many_slots_as_its_recording_and_embeddings_as_wide(learned):
    ratios = []
    for i in range(0, len(learned.texts), HELD_OUT):
        slot = learned.generator.generate(learned.texts[i], random.Random(i))
        ratios.append(len(slot) / len(learned.real[i]))
        assert slot.shape[1] == learned.real[i].shape[1] and not slot.requires_grad
    assert 0.8 < sum(ratios) / len(ratios) < 1.25 and min(ratios) > 0.5 and max(ratios) < 2
    slots = torch.cat([learned.generator.generate(text, random.Random(1)) for text in learned.texts])
    real = torch.cat(learned.real)
    assert slots.std(0).mean().item() == pytest.approx(real.std(0).mean().item(), rel=0.15), "not shrunk to the mean"


def test_the_seed_decides_what_is_generated_and_what_is_learned(learned, tmp_path):
    def generated(generator: SlotGenerator, seed: int) -> torch.Tensor:
        return generator.generate("when does the next coach leave", random.Random(seed))

    assert torch.equal(generated(learned.generator, 3), generated(learned.generator, 3))
    one, other = generated(learned.generator, 3), generated(learned.generator, 4)
    assert len(one) != len(other) or not torch.allclose(one, other), "another time it is spoken otherwise"
    again = []
    for name, seed in (("a", 2), ("b", 2), ("c", 5)):
        out = tmp_path / f"{name}.safetensors"
        learn_slot_generator(learned.texts, learned.real, folder=tmp_path / name, out=out, seed=seed, steps=2)
        again.append(generated(load_slot_generator(out, torch.device("cpu")), 3))
    assert torch.equal(again[0], again[1])
    assert len(again[0]) != len(again[2]) or not torch.allclose(again[0], again[2])


def test_each_slot_has_a_residual_of_its_character(learned):
    text, plain = "when does the coach leave", copy.deepcopy(learned.generator)
    plain.residuals.zero_()
    expected, slots = (generator.generate(text, random.Random(3)) for generator in (plain, learned.generator))
    distances = torch.cdist((slots - expected) / plain.deviation, learned.generator.residuals)
    assert distances.amin(1).max() < 0.05 * distances.mean()
    found = learned.generator.residual_ids[distances.argmin(1)].unique_consecutive().tolist()
    of_text = iter(learned.generator.ids(text).tolist())
    assert len(found) > 10 and all(character in of_text for character in found), "in the order of the text"


def test_unknown_characters_and_no_characters_leave_a_slot(learned):
    for text in ("", "日本語", "x"):
        slot = learned.generator.generate(text, random.Random(1))
        assert len(slot) >= 1 and slot.isfinite().all(), text
