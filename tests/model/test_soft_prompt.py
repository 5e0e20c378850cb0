"""Soft prompts: what they start from, and files that hold none."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import save_file

from adapt.errors import ModelError
from adapt.model.load import load_speech_llm
from adapt.model.soft_prompt import (
    SLOT_EXAMPLES,
    initial,
    load_soft_prompt,
    save_slot_examples,
    save_soft_prompt,
    slot_examples,
)


def test_examples_are_the_replayed_ones_or_those_of_the_base(tiny, noise, tmp_path):
    slots = tiny.audio_embeddings(noise)
    with pytest.raises(ModelError, match="has no examples of audio embeddings; give audio embeddings of source audio"):
        slot_examples(tiny)
    assert all(a is b for a, b in zip(slot_examples(tiny, slots), slots, strict=True))
    shutil.copytree(tiny.name, tmp_path / "base")
    save_slot_examples(tmp_path / "base" / SLOT_EXAMPLES, slots)
    kept = slot_examples(load_speech_llm(str(tmp_path / "base"), "cpu"))
    assert all(torch.equal(a, b) for a, b in zip(kept, slots, strict=True))


def test_a_soft_prompt_starts_from_audio_statistics_text_or_noise(tiny, noise):
    slots = tiny.audio_embeddings(noise)
    total = sum(map(len, slots))
    repeated = initial("audio", total + 2, slots, tiny)
    assert torch.equal(repeated[:total], torch.cat(slots)) and torch.equal(repeated[total:], repeated[:2])
    table = tiny.model.get_input_embeddings().weight
    assert all(any(torch.equal(row, token) for token in table) for row in initial("text", 3, (), tiny))
    for kind in ("stats", "random"):
        assert initial(kind, 3, slots, tiny).shape == (3, tiny.hidden)


def test_files_without_a_soft_prompt_and_of_another_width_are_errors(tiny, tmp_path):
    vectors = torch.randn(3, tiny.hidden)
    save_soft_prompt(tmp_path / "soft.safetensors", vectors)
    assert torch.equal(load_soft_prompt(tmp_path / "soft.safetensors", tiny), vectors)
    save_soft_prompt(tmp_path / "wide.safetensors", torch.zeros(3, tiny.hidden + 1))
    save_file({"other": vectors}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    for name, problem in (("wide", "dimensions"), ("other", "holds no soft prompt"), ("text", "cannot be read")):
        with pytest.raises(ModelError, match=problem):
            load_soft_prompt(tmp_path / f"{name}.safetensors", tiny)
