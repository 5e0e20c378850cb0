"""`adapt ls`: runs, and the keys of recipes."""

from __future__ import annotations

import json

import pytest
import yaml

from adapt.recipe.base import BaseRecipe
from adapt.recipe.domain import Recipe
from adapt.recipe.load import describe, keys

from ..session import adapt

KINDS = {"keys": Recipe, "base-keys": BaseRecipe}


@pytest.mark.parametrize("what", KINDS)
def test_keys_are_listed_with_their_defaults_and_none_is_missing(what):
    listed = adapt("ls", what)
    assert listed.exit_code == 0 and listed.stdout == describe(KINDS[what])
    found = set()
    for section, value in yaml.safe_load(listed.stdout).items():
        found |= {f"{section}.{key}" for key in value} if isinstance(value, dict) else {section}
    assert found == set(keys(KINDS[what]))


@pytest.mark.parametrize("what", KINDS)
def test_keys_as_json_have_their_meaning(what):
    listed = json.loads(adapt("ls", what, "--json").stdout)
    assert listed == {key: field.metadata["help"] for key, (field, _) in keys(KINDS[what]).items()}


def test_runs_are_listed_and_a_broken_one_hides_no_other(finished_run):
    folder = finished_run.run.parent
    (folder / "broken").mkdir()
    (folder / "broken/run.json").write_text("{")
    lines = adapt("ls", "runs", folder).stdout.splitlines()
    (whole,) = (line for line in lines if line.startswith(str(finished_run.run)))
    assert finished_run.base in whole, "the base"
    for stage in ("text", "prompt", "decoder", "transcribe", "score"):
        assert stage in whole
    (broken,) = (line for line in lines if line.startswith(str(folder / "broken")))
    assert "run.json is broken" in broken


def test_a_folder_without_runs_is_an_error(tmp_path):
    none = adapt("ls", "runs", tmp_path)
    assert none.exit_code == 1 and "holds no runs" in none.stderr
