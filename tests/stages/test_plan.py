"""What a recipe asks for: pseudo audio, the soft prompt, and the parts of the base that are trained."""

from __future__ import annotations

import json

import pytest

from adapt.errors import RecipeError
from adapt.stages import plan

KINDS = ("simulate", "soft-prompt", "soft-prompt+simulate", "mixed", "denoise", "upsample-mask", "empty", "none")


@pytest.fixture
def without_ctc(folder) -> str:
    """An override that names a base without a CTC head."""
    (folder / "base").mkdir()
    (folder / "base/config.json").write_text('{"model_type": "qwen2_audio"}')
    return f"base={folder / 'base'}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_with_a_ctc_head_can_have_any_pseudo_audio(load, kind):
    assert plan.pseudo_audio(load(f"decoder.pseudo_audio={kind}")) == kind


def test_automatic_pseudo_audio_is_simulated_where_the_base_has_a_ctc_head(load, without_ctc):
    auto = "decoder.pseudo_audio=auto"
    assert plan.pseudo_audio(load(auto)) == "simulate"
    assert plan.pseudo_audio(load(auto, without_ctc)) == "soft-prompt"


@pytest.mark.parametrize("kind", KINDS)
def test_simulated_slots_without_a_ctc_head_are_an_error(load, without_ctc, kind):
    recipe = load(f"decoder.pseudo_audio={kind}", without_ctc)
    if "simulate" not in kind and kind != "mixed":
        assert plan.pseudo_audio(recipe) == kind
        return
    with pytest.raises(RecipeError, match=r"decoder.pseudo_audio: .* has none; write soft-prompt"):
        plan.pseudo_audio(recipe)


def test_slots_are_generated_for_any_base_whose_slot_holds_audio(load, folder, without_ctc):
    generate, replay = "decoder.pseudo_audio=generate", f"data.source_replay={folder / 'test.jsonl'}"
    for base in ("base=tiny", without_ctc):
        assert plan.pseudo_audio(load(generate, replay, base)) == "generate"
    with pytest.raises(RecipeError, match=r"decoder.pseudo_audio: 'generate' learns from data.source_replay, which is"):
        plan.pseudo_audio(load(generate))
    config = {"model_type": "adapt_composed", "audio_config": {"first_pass": {"max_tokens": 9}}}
    (folder / "base/config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match=r"'generate' makes audio embeddings, .* holds a transcript; write simulate"):
        plan.pseudo_audio(load(generate, replay, without_ctc))


@pytest.mark.parametrize("kind", KINDS)
def test_the_soft_prompt_is_learned_where_the_slot_or_the_internal_lm_has_it(load, kind):
    chosen = f"decoder.pseudo_audio={kind}"
    assert plan.learns_soft_prompt(load(chosen)) == (kind in ("soft-prompt", "soft-prompt+simulate", "mixed"))
    assert plan.learns_soft_prompt(load(chosen, "fusion.ilm_slot=soft-prompt")), "for the internal LM"


def test_the_soft_prompt_is_learned_for_a_base_without_a_ctc_head(load, without_ctc):
    assert plan.learns_soft_prompt(load("decoder.pseudo_audio=auto", without_ctc))
    assert not plan.learns_soft_prompt(load("decoder.pseudo_audio=auto")), "slots are simulated"


@pytest.mark.parametrize(
    ("overrides", "parts", "written"),
    [
        ([], [], None),
        (["project.method=tokens"], [], plan.LEARNED_PROMPT),
        (["project.llm=lora"], ["llm"], plan.TRAINED_BASE),
        (["project.method=mlp", "project.projector=trained"], ["projector"], plan.TRAINED_BASE),
        (
            ["project.llm=lora", "project.projector=trained", "project.encoder=trained"],
            ["encoder", "projector", "llm"],
            plan.TRAINED_BASE,
        ),
    ],
)
def test_what_paired_audio_trains_and_where_that_is_written(load, overrides, parts, written):
    recipe = load(*overrides)
    assert plan.trained_parts(recipe) == parts
    assert plan.learns_from_pairs(recipe) == (written is not None)
    assert plan.projected(recipe) == written


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["project.encoder=trained"], "project.encoder: a frozen projector would map"),
        (["project.llm=lora", "quantise=4-bit"], "project.llm: weights in 4-bit cannot be trained"),
        (["project.encoder=trained", "project.projector=trained", "quantise=8-bit"], "project.encoder: weights in 8"),
    ],
)
def test_parts_that_cannot_be_trained_so_are_an_error(load, overrides, problem):
    with pytest.raises(RecipeError, match=problem):
        plan.trained_parts(load(*overrides))
