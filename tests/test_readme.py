"""Every block of the README runs, or at least is what the command line and the recipe loader take."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import click
import pytest

from adapt.cli import main
from adapt.errors import RecipeError
from adapt.recipe.base import BaseRecipe
from adapt.recipe.domain import Recipe
from adapt.recipe.load import keys, load_recipe
from adapt.text.template import parse

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)


def test_python_blocks_run(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    blocks = [text for kind, text in BLOCKS if kind == "python"]
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.split()) > 2


def test_yaml_blocks_are_recipes(tmp_path):
    domain, learned, base = [text for kind, text in BLOCKS if kind == "yaml"]
    for name in re.findall(r"[\w-]+\.(?:txt|tsv|jsonl)", domain + learned + base):
        (tmp_path / name).write_text("")
    for name in ("wavlm", "qwen"):
        (tmp_path / name).mkdir()
    (tmp_path / "recipe.yaml").write_text(domain)
    assert load_recipe(Recipe, tmp_path).data.source_dev == tmp_path / "general-dev.jsonl"
    (tmp_path / "recipe.yaml").write_text(learned)
    template = parse(load_recipe(Recipe, tmp_path).project.template)
    assert [s.text or s.count for s in template] == ["USER: ", "Transcribe speech to text. ", 0, 2, "\n ASSISTANT:"]
    (tmp_path / "recipe.yaml").write_text(base)
    assert load_recipe(BaseRecipe, tmp_path).llm.start == str(tmp_path / "qwen")


def test_commands_are_real():
    lines = [line for kind, text in BLOCKS if not kind for line in text.splitlines()]
    calls = [part for line in lines for part in re.split(r"&&", line) if part.strip().startswith("adapt ")]
    assert len(calls) >= 5
    for call in calls:
        _, name, *rest = shlex.split(call, comments=True)
        command = main.commands[name]
        with click.Context(command) as context:
            command.parse_args(context, rest)


def test_pseudo_audio_table_is_complete():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    spec, _ = keys(Recipe)["decoder.pseudo_audio"]
    assert [c for c in spec.metadata["choices"] if f"| `{c}` |" not in text] == []


RECIPES = {path.parent: "train:" in path.read_text() for path in sorted((ROOT / "recipes").glob("*/recipe.yaml"))}


@pytest.mark.parametrize("folder", [f for f, base in RECIPES.items() if not base], ids=lambda p: p.name)
def test_every_recipe_of_a_domain_loads(folder):
    loaded = load_recipe(Recipe, folder)
    assert loaded.name == folder.name
    assert load_recipe(Recipe, folder, ["decoder.steps=7"]).decoder.steps == 7


@pytest.mark.parametrize("folder", [f for f, base in RECIPES.items() if base], ids=lambda p: p.name)
def test_every_recipe_of_a_base_loads_once_its_data_is_made(folder, tmp_path):
    shutil.copy(folder / "recipe.yaml", tmp_path)
    with pytest.raises(RecipeError, match=r"data\.train: no such file"):
        load_recipe(BaseRecipe, tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("train.jsonl", "dev.jsonl", "test.jsonl", "text.txt"):
        (tmp_path / "data" / name).touch()
    assert load_recipe(BaseRecipe, tmp_path, ["align.steps=7"]).align.steps == 7
