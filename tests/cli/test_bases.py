"""Speech LLMs of other families as the base of a recipe."""

from __future__ import annotations

import json

import pytest

from ..model.families import BUILDERS, WITHOUT_PROCESSOR
from ..session import adapt
from .conftest import Finished, overrides

CHANGED = overrides("decoder.pseudo_audio=auto", "fusion.boost=1")


@pytest.fixture(params=["qwen2_audio", "qwen3_asr", "granite_speech", "voxtral"])
def kind(request) -> str:
    """A model type that can be built here."""
    if request.param in WITHOUT_PROCESSOR:
        pytest.skip(WITHOUT_PROCESSOR[request.param])
    return request.param


@pytest.fixture
def base(kind, tmp_path_factory, originals) -> str:
    """The folder of a tiny model of this type, the same in all tests."""
    if f"{kind} model" not in originals:
        folder = tmp_path_factory.mktemp("base") / kind
        BUILDERS[kind](folder)
        originals[f"{kind} model"] = folder, ""
    return str(originals[f"{kind} model"][0])


@pytest.fixture
def foreign_run(kind, base, finish) -> Finished:
    """`adapt run` with this base, in the folder that is chosen for it."""
    return finish(kind, "run", "--base", base, *CHANGED, run=f"runs/recipe-{kind}")


def test_check_of_a_base_finds_its_slot(base, recipe):
    result = adapt("check", "--base", base, "--audio", recipe / "0.wav")
    assert result.exit_code == 0 and "slot" in result.stdout, result.output


def test_any_speech_llm_runs_a_recipe(foreign_run):
    assert foreign_run.run.is_dir(), "the run folder is named after the recipe and the base"
    systems = [row["system"] for row in foreign_run.rows()[:4]]
    assert systems == ["base", "base + boost", "adapted", "adapted + boost"]
    adapter = json.loads((foreign_run.run / "adapter/adapt.json").read_text())
    assert adapter["pseudo_audio"] == "soft-prompt", "without a CTC head the soft prompt stands in the slot"


def test_a_learned_soft_prompt_can_be_the_start_of_another_run(foreign_run, base, tmp_path):
    soft_prompt = foreign_run.run / "prompt/soft_prompt.safetensors"
    options = [*CHANGED, "-s", f"prompt.start={soft_prompt}", "-o", tmp_path / "again"]
    again = adapt("decoder", foreign_run.recipe, "--base", base, *options)
    assert again.exit_code == 0 and "used as given, without training" in again.stderr, again.output


def test_simulated_slots_with_a_base_without_a_ctc_head_are_an_error(base, recipe, tmp_path):
    options = ["-s", "decoder.pseudo_audio=simulate", "-o", tmp_path / "run"]
    refused = adapt("run", recipe, "--base", base, *options)
    assert refused.exit_code == 1 and "write soft-prompt" in refused.stderr, refused.output


def test_an_exported_model_is_a_base(foreign_run):
    exported = adapt("export", foreign_run.run)
    assert exported.exit_code == 0, exported.output
    found = adapt("transcribe", foreign_run.recipe / "0.wav", "--base", foreign_run.run / "export")
    assert found.exit_code == 0, found.output
