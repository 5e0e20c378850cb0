"""Choices of recipe keys are those of the functions that take them; `decoder.pseudo_audio` is tied in tests/train."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from adapt.model import load
from adapt.model.composed import PROJECTORS
from adapt.model.learned_prompt import LearnedPrompt
from adapt.model.soft_prompt import initial
from adapt.recipe import choices
from adapt.recipe.base import BaseRecipe
from adapt.recipe.domain import Recipe
from adapt.recipe.load import keys
from adapt.text.normalise import NORMALISERS


def choices_of(kind: type, key: str) -> tuple[str, ...]:
    return keys(kind)[key][0].metadata["choices"]


@pytest.mark.parametrize("kind", [Recipe, BaseRecipe])
def test_normalisers_are_those_of_the_text_room(kind):
    assert choices_of(kind, "data.normaliser") == tuple(NORMALISERS)


def test_dtypes_are_those_that_a_base_can_be_loaded_in():
    assert choices_of(Recipe, "dtype") == choices.DTYPES
    assert set(choices.DTYPES) - {"auto"} == set(load.DTYPES)


def test_projectors_are_those_of_the_model():
    assert choices_of(BaseRecipe, "align.projector") == (*PROJECTORS, "first-pass")


def test_each_quantisation_sets_its_number_of_bits(monkeypatch):
    assert choices_of(Recipe, "quantise") == tuple(choices.QUANTISE_BITS)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "bitsandbytes", types.ModuleType("bitsandbytes"))
    monkeypatch.setattr(load.transformers, "BitsAndBytesConfig", dict)
    for bits in filter(None, choices.QUANTISE_BITS.values()):
        flags = load._quantised(bits, "cuda")["quantization_config"]
        assert [name for name, is_set in flags.items() if is_set] == [f"load_in_{bits}bit"]


@pytest.mark.parametrize("key", ["prompt.init", "project.init"])
def test_each_initial_soft_prompt_is_one_of_its_own(tiny, key):
    examples = list(torch.randn(3, 7, tiny.hidden).unbind())
    found = []
    for kind in choices_of(Recipe, key):
        torch.manual_seed(0)
        found.append(initial(kind, 5, examples, tiny))
        assert found[-1].shape == (5, tiny.hidden), kind
    for i, one in enumerate(found):
        assert not any(torch.equal(one, other) for other in found[:i]), f"{choices.PROMPT_INITS[i]} is another choice"


def test_each_way_to_learn_a_prompt_is_one_of_the_model(tiny):
    methods = choices_of(Recipe, "project.method")
    sizes = {}
    for method in methods:
        if method == "none":  # then no prompt is made
            continue
        prompt = LearnedPrompt(tiny, "<p:play the song><speech>", method)
        sizes[method] = sum(p.numel() for p in prompt.parameters() if p.requires_grad)
    assert len(set(sizes.values())) == len(methods) - 1, f"two methods learn the same: {sizes}"
