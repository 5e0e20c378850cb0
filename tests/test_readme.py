"""Every block of the README runs or is accepted, and every output block is what is printed, word for word."""

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
from adapt.recipe.load import load_recipe

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.M | re.S)


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 200


def test_python_blocks_print_what_stands_below_them(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    places = [i for i, (kind, _) in enumerate(BLOCKS) if kind == "python"]
    assert places
    for place in places:
        exec(compile(BLOCKS[place][1], "README.md", "exec"), {})
        assert capsys.readouterr().out == BLOCKS[place + 1][1]


def test_the_recipe_loads(tmp_path):
    (block,) = [text for kind, text in BLOCKS if kind == "yaml"]
    for name in re.findall(r"[\w-]+\.(?:txt|tsv|jsonl)", block):
        (tmp_path / name).write_text("")
    (tmp_path / "recipe.yaml").write_text(block)
    assert load_recipe(Recipe, tmp_path).data.source_dev == tmp_path / "general-dev.jsonl"


def test_commands_are_accepted():
    lines = [line for kind, text in BLOCKS if not kind for line in text.splitlines()]
    calls = [part for line in lines for part in re.split(r"&&", line) if part.strip().startswith("adapt ")]
    assert len(calls) >= 5
    for call in calls:
        _, name, *rest = shlex.split(call, comments=True)
        command = main.commands[name]
        with click.Context(command) as context:
            command.parse_args(context, rest)


def test_the_table_of_commands_is_complete():
    rows = [line for line in TEXT.splitlines() if line.startswith("| `adapt ")]
    named = {name for row in rows for name in re.findall(r"`adapt (\w+)", row.split("|")[1])}
    assert named == set(main.commands)


def test_its_score_table_is_that_of_the_results():
    scores = dict(re.findall(r"^target  (\S.*?\S)  +(\d+\.\d ± \d\.\d \*?)", TEXT, re.M))
    assert len(scores) == 5
    results = (ROOT / "recipes/RESULTS.md").read_text(encoding="utf-8")
    for system, wer in scores.items():
        assert re.search(rf"^\| {re.escape(system)} \|[^|]*\| {re.escape(wer.strip())} \|", results, re.M), system


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *sorted((ROOT / "recipes").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path) if path else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
                anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
                assert anchor in anchors, f"{page.name}: {target}"


FOLDERS = [path.parent for path in sorted((ROOT / "recipes").glob("*/recipe.yaml"))]
BASES = [folder for folder in FOLDERS if "train:" in (folder / "recipe.yaml").read_text()]
MADE = [ROOT / "recipes/sgd-music"]  # whose data a maker writes; tests/recipes loads it


@pytest.mark.parametrize("folder", sorted({*FOLDERS} - {*BASES, *MADE}), ids=lambda p: p.name)
def test_every_recipe_of_a_domain_loads(folder):
    loaded = load_recipe(Recipe, folder)
    assert loaded.name == folder.name
    assert load_recipe(Recipe, folder, ["decoder.steps=7"]).decoder.steps == 7


@pytest.mark.parametrize("folder", BASES, ids=lambda p: p.name)
def test_every_recipe_of_a_base_loads_once_its_data_is_made(folder, tmp_path):
    shutil.copy(folder / "recipe.yaml", tmp_path)
    with pytest.raises(RecipeError, match=r"data\.train: no such file"):
        load_recipe(BaseRecipe, tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("train.jsonl", "dev.jsonl", "test.jsonl", "text.txt", "spoken.txt"):
        (tmp_path / "data" / name).touch()
    assert load_recipe(BaseRecipe, tmp_path, ["align.steps=7"]).align.steps == 7
