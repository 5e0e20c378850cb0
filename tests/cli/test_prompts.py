"""`adapt prompts`: templates as they are and learned, compared on the development set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapt.train import project

from ..session import adapt
from .conftest import Finished, overrides, write_paired

SHORT = overrides("data.paired=paired.jsonl", "data.dev=test.jsonl", "project.steps=2", "project.batch_size=4")


def prepare(recipe: Path) -> None:
    """Paired audio, and a file of two templates beside the folder of the recipe."""
    write_paired(recipe)
    (recipe.parent / "prompts.txt").write_text("<speech>now\nplay the song <speech>\n")


@pytest.fixture
def compared(finish) -> Finished:
    """Both templates by every method, with two seeds."""
    options = ["--prompts", "prompts.txt", "--seeds", 2, "--json"]
    return finish("prompts", "prompts", *options, *SHORT, prepare=prepare)


def test_each_template_is_tried_by_each_method(compared):
    trials = {method["method"]: method["trials"] for method in json.loads(compared.stdout)["methods"]}
    assert trials == {"own": 1, "plain": 2, "tokens-8": 4, "mlp": 4, "residual": 4}
    assert (compared.run / "prompts/wer.png").exists(), "the picture is drawn"


def test_a_second_comparison_trains_nothing_and_gives_the_same_scores(compared, monkeypatch):
    monkeypatch.setattr(project, "learn_from_pairs", None)
    call = ["prompts", compared.recipe, "--prompts", compared.run.parent / "prompts.txt", "--seeds", 2]
    call += [*SHORT, "-o", compared.run]
    assert adapt(*call, "--json").stdout == compared.stdout, "the scores are the same"
    table = adapt(*call)
    assert table.exit_code == 0 and "Use: " in table.stdout, "the table ends with the best prompt"


def test_changed_steps_learn_each_prompt_again(recipe, tmp_path, monkeypatch):
    prepare(recipe)
    learn, learned = project.learn_from_pairs, []

    def counted(speech_llm, prompt, train, dev, settings, **options):
        learned.append(settings.steps)
        return learn(speech_llm, prompt, train, dev, settings, **options)

    monkeypatch.setattr(project, "learn_from_pairs", counted)
    call = ["prompts", recipe, "--prompts", recipe.parent / "prompts.txt", "--method", "tokens-2", "--seeds", 1]
    call += [*SHORT, "-o", tmp_path / "run"]
    for options, steps in (([], [2, 2]), ([], []), (["-s", "project.steps=3"], [3, 3])):
        learned.clear()
        found = adapt(*call, *options)
        assert found.exit_code == 0, found.output
        assert learned == steps, f"two templates, {options or 'unchanged'}"


def test_prompts_need_a_development_set(recipe, tmp_path):
    prepare(recipe)
    call = ["prompts", recipe, "--prompts", recipe.parent / "prompts.txt", *SHORT, "-o", tmp_path / "run"]
    missing = adapt(*call, "-s", "data.dev=")
    assert missing.exit_code == 1 and "data.dev: missing" in missing.stderr, missing.output


def test_an_unknown_method_is_an_error(recipe, tmp_path):
    prepare(recipe)
    call = ["prompts", recipe, "--prompts", recipe.parent / "prompts.txt", *SHORT, "-o", tmp_path / "run"]
    unknown = adapt(*call, "--method", "token")
    assert unknown.exit_code == 1 and "--method token: unknown" in unknown.stderr, unknown.output
