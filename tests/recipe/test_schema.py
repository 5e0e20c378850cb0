from __future__ import annotations

import dataclasses as dc
from pathlib import Path

import pytest

from adapt.recipe.base import BaseRecipe
from adapt.recipe.domain import Recipe
from adapt.recipe.schema import in_words, is_optional, keys, keys_of, plain, required, sections, unknown_key


def test_keys_are_dotted_and_folder_is_none_of_them():
    assert {"name", "base", "data.text", "decoder.steps", "score.resamples"} <= set(keys(Recipe))
    assert not {"folder", "data", "decoder"} & set(keys(Recipe))
    assert list(keys_of("score", Recipe)) == ["resamples"]
    assert {"seed", "data"} <= set(keys_of("", Recipe)), "sections count as keys of the top level"


def test_what_a_recipe_needs():
    assert required(Recipe) == "`data:` with `text:`"
    assert required(BaseRecipe) == "`data:` with `train:` and `dev:`"


@pytest.mark.parametrize("kind", [Recipe, BaseRecipe])
def test_every_field_of_a_section_is_a_documented_key(kind):
    for name, section in sections(kind).items():
        assert section.__doc__, name
        for spec in dc.fields(section):
            assert spec.metadata.get("help"), f"{name}.{spec.name}"


@pytest.mark.parametrize("kind", [Recipe, BaseRecipe])
def test_defaults_lie_in_their_own_range(kind):
    for key, (spec, value_type) in keys(kind).items():
        limits, value = spec.metadata, spec.default
        if value is dc.MISSING or value is None:
            assert "example" in limits or is_optional(value_type), f"{key}: has neither a default nor an example"
            continue
        assert value in limits.get("choices", (value,)), key
        if plain(value_type) in (int, float):
            assert limits.get("low", value) <= value <= limits.get("high", value), key
            assert value > limits.get("above", value - 1), key


@pytest.mark.parametrize(
    ("kind", "limits", "words"),
    [
        (int, {"low": 1}, "a whole number, at least 1"),
        (int, {"low": 1, "auto": True}, "auto, or a whole number, at least 1"),
        (float, {"low": 0, "high": 1}, "a number from 0 to 1"),
        (float, {"above": 0}, "a number above 0"),
        (str, {"choices": ("a", "b")}, "one of a, b"),
        (str, {"pattern_help": "a name"}, "a name"),
        (Path, {}, "a path"),
    ],
)
def test_ranges_in_words(kind, limits, words):
    assert in_words(kind, limits) == words


def test_an_unknown_key_names_what_may_be_meant():
    assert unknown_key("prompt.rank", Recipe) == "unknown key `prompt.rank`; did you mean `decoder.rank`?"
    assert unknown_key("score.x", Recipe) == "unknown key `score.x`; the keys here are resamples"
