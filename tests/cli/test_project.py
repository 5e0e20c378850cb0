"""`adapt project`: a learned prompt, and parts of the base that are trained, as the start of both stages."""

from __future__ import annotations

import json

import pytest

from ..session import adapt
from .conftest import Finished, overrides, write_paired

SHORT = overrides(
    "data.paired=paired.jsonl",
    "project.steps=4",
    "project.batch_size=4",
    "project.eval_every=2",
    "decoder.pseudo_audio=soft-prompt",
)
PROMPT = [*SHORT, *overrides("project.method=residual", "project.template=<p:play the song><speech>now")]
PARTS = overrides(
    "project.encoder=trained", "project.projector=trained", "project.llm=lora", "project.weights_rate=0.01"
)


@pytest.fixture
def prompt_run(finish) -> Finished:
    """A run whose prompt around the slot is learned."""
    return finish("prompt", "run", *PROMPT, prepare=write_paired)


@pytest.fixture
def parts_run(finish) -> Finished:
    """A run that trains encoder, projector and decoder on paired audio first."""
    return finish("parts", "run", *SHORT, *PARTS, prepare=write_paired)


@pytest.mark.parametrize(("name", "options"), [("prompt_run", PROMPT), ("parts_run", [*SHORT, *PARTS])])
def test_the_projected_base_is_scored_and_a_second_run_skips_every_stage(request, name, options):
    first = request.getfixturevalue(name)
    assert [row["system"] for row in first.rows()[:4]] == ["base", "ctc", "projected", "adapted"]
    again = adapt("run", first.recipe, "-o", first.run, *options)
    assert again.stdout == first.stdout, "the table is the same"
    assert again.stderr.count("as before") == 13, "every stage is skipped"


@pytest.mark.parametrize("way", ["adapter", "export"])
def test_transcribe_puts_the_learned_prompt_around_the_slot(prompt_run, way, tmp_path):
    wanted = prompt_run.first_transcript("target.adapted")
    options = ["--base", prompt_run.base, "--adapter", prompt_run.run / "adapter"]
    if way == "export":
        assert adapt("export", prompt_run.run).exit_code == 0
        options = ["--base", prompt_run.run / "export"]
    out = tmp_path / "found.jsonl"
    found = adapt("transcribe", prompt_run.recipe / "test.jsonl", *options, "--num-beams", 2, "--out", out)
    assert found.exit_code == 0, found.output
    texts = {row["id"]: row["text"] for row in map(json.loads, out.read_text().splitlines())}
    assert texts[wanted["id"]].startswith(wanted["text"]), "the run cut its transcripts after 8 tokens"


def test_a_learned_prompt_without_an_adapter_transcribes_as_in_the_run(prompt_run):
    wanted = prompt_run.first_transcript("target.projected")
    options = ["--base", prompt_run.base, "--prompt", prompt_run.run / "project/prompt.safetensors", "--num-beams", 2]
    found = adapt("transcribe", prompt_run.recipe / "test.jsonl", *options)
    assert f"{wanted['id']}\t{wanted['text']}" in found.stdout, found.output


def test_a_learned_prompt_can_be_the_start_of_the_soft_prompt(prompt_run, tmp_path):
    start = f"prompt.start={prompt_run.run / 'project/prompt.safetensors'}"
    taken = adapt("prompt", prompt_run.recipe, "-o", tmp_path / "other", "-s", start)
    assert taken.exit_code == 0 and "used as given, without training" in taken.stderr, taken.output


def test_another_normaliser_learns_the_prompt_again(prompt_run):
    again = adapt("project", prompt_run.recipe, "-o", prompt_run.run, *PROMPT, "-s", "data.normaliser=none")
    assert 'data.normaliser changed: "basic" -> "none"' in again.stderr


def test_project_with_nothing_to_learn_is_wrong_usage(recipe, tmp_path):
    nothing = adapt("project", recipe, "-o", tmp_path / "run")
    assert nothing.exit_code == 2 and "set project.method" in nothing.stderr, nothing.output


def test_a_template_with_a_mistake_is_an_error_that_names_the_column(recipe, tmp_path):
    write_paired(recipe)
    options = [*PROMPT, "-s", "project.template=<p:play <speech>"]
    wrong = adapt("project", recipe, "-o", tmp_path / "run", *options)
    assert wrong.exit_code == 1 and "column" in wrong.stderr, wrong.output


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["project.encoder=trained"], "project.encoder: a frozen projector"),
        (["project.projector=trained", "quantise=4-bit"], "leave out quantise"),
    ],
)
def test_parts_that_cannot_be_trained_so_are_an_error(recipe, tmp_path, settings, problem):
    write_paired(recipe)
    refused = adapt("run", recipe, "-o", tmp_path / "run", *SHORT, *overrides(*settings))
    assert refused.exit_code == 1 and problem in refused.stderr, refused.output


def test_both_stages_start_from_the_trained_base(parts_run):
    model = parts_run.run / "project/model"
    assert f"--base {model}" in parts_run.stdout, "the run says which base its adapter belongs to"
    for system, options in {"projected": [], "adapted": ["--adapter", parts_run.run / "adapter"]}.items():
        wanted = parts_run.first_transcript(f"target.{system}")
        found = adapt("transcribe", parts_run.recipe / "test.jsonl", "--base", model, *options, "--num-beams", 2)
        assert f"{wanted['id']}\t{wanted['text']}" in found.stdout, f"{system}: {found.output}"


def test_the_adapter_of_a_trained_base_is_refused_for_the_untrained_one(parts_run):
    options = ["--base", parts_run.base, "--adapter", parts_run.run / "adapter"]
    refused = adapt("transcribe", parts_run.recipe / "test.jsonl", *options)
    assert refused.exit_code == 1 and "made for" in refused.stderr, refused.output


def test_a_trained_base_with_its_adapter_can_be_exported(parts_run):
    exported = adapt("export", parts_run.run)
    assert exported.exit_code == 0, exported.output
