"""A recipe that no model is loaded for, and runs of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from adapt.recipe.domain import Recipe
from adapt.recipe.load import load_recipe
from adapt.run import RunFolder
from adapt.stages.context import Run

TEXT = ["play queen", "stop queen", "louder please", "what is it", "Louder, please!", "again", "the song", "play abba"]
SAID = ["play abba", "stop abba", "louder please"]  # by the test set


@pytest.fixture
def folder(tmp_path) -> Path:
    """The folder of a recipe with text, a lexicon and a test set whose recordings are empty files."""
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "text.txt").write_text("\n".join(TEXT) + "\n")
    (folder / "lexicon.tsv").write_text("queen\tartist\nabba\tartist\ncher\tartist\n")
    rows = [{"id": str(i), "audio": f"{i}.wav", "text": text} for i, text in enumerate(SAID)]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for i in range(len(SAID)):
        (folder / f"{i}.wav").touch()
    lines = "data: {text: text.txt, lexicon: lexicon.tsv, test: test.jsonl, dev_lines: 1, entity_copies: 4}"
    (folder / "recipe.yaml").write_text(f"base: tiny\n{lines}\n")
    return folder


@pytest.fixture
def load(folder) -> Callable[..., Recipe]:
    """The recipe of `folder`, with overrides such as `decoder.steps=2`."""
    return lambda *overrides: load_recipe(Recipe, folder, overrides)


@pytest.fixture
def new_run(load, tmp_path) -> Callable[..., Run]:
    """A run of the recipe with overrides, in a folder of its own, whose reports are kept in the list `run.reported`."""

    def started(*overrides: str) -> Run:
        run = Run(load(*overrides), RunFolder(tmp_path / f"run{len(opened)}"), "cpu")
        run.reported = []
        run.report = lambda result, note: run.reported.append((result, note))
        opened.append(run)
        return run

    opened: list[Run] = []
    yield started
    for run in opened:
        run.folder.close()
