"""The recipe of dialogues on music and films: what `make.py` writes of a small corpus, and the recipe with it."""

from __future__ import annotations

import gzip
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from adapt.recipe.domain import Recipe
from adapt.recipe.load import load_recipe
from adapt.text.lexicon import read_lexicon

RECIPES = Path(__file__).parents[2] / "recipes"


def turn(split: str, speaker: str, text: str, name: str = "", kind: str = "song_name") -> dict:
    """A turn of the corpus with one entity, or none."""
    start = text.index(name)
    entities = [{"type": kind, "start": start, "end": start + len(name)}] if name else []
    return {"id": text, "split": split, "speaker": speaker, "text": text, "entities": entities}


TURNS = [
    turn("train", "USER", "Play The Wheels, please.", "The Wheels"),
    turn("train", "SYSTEM", "What about Rae Dunn?", "Rae Dunn", "artist"),
    turn("train", "USER", "Play 7 Rings.", "7 Rings"),
    turn("dev", "USER", "I'd like Rae Dunn, please.", "Rae Dunn", "artist"),
    turn("test", "USER", "Play The Wheels, please.", "The Wheels"),
    turn("test", "USER", "I want to see Long Day.", "Long Day", "title"),
    turn("test", "USER", "Anything else is fine."),
    turn("test", "SYSTEM", "I suggest you see Dogs.", "Dogs", "title"),
]


@pytest.fixture
def made(tmp_path, monkeypatch) -> Path:
    """The folder of the recipe, with what `make.py` has written."""
    (tmp_path / "music").symlink_to(RECIPES / "music")
    folder = Path(shutil.copytree(RECIPES / "sgd-music", tmp_path / "sgd-music", ignore=shutil.ignore_patterns("data")))
    with gzip.open(tmp_path / "turns.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in TURNS)
    spec = importlib.util.spec_from_file_location("sgd_make", folder / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    result = CliRunner().invoke(make.main, [str(tmp_path / "turns.jsonl.gz")])
    assert result.exit_code == 0, result.output
    return folder


def test_sets_hold_what_users_ask_and_the_text_does_not(made):
    assert (made / "data/text.txt").read_text().splitlines() == ["play the wheels please", "what about rae dunn"]
    names = [(entry.written, entry.type) for entry in read_lexicon(made / "data/lexicon.tsv").entries]
    assert names == [("dogs", "film"), ("long day", "film"), ("rae dunn", "artist"), ("the wheels", "track")]
    spoken = [json.loads(row) for row in (made / "data/test.jsonl").read_text().splitlines()]
    row = {"id": "test-000", "text": "i want to see long day", "entities": [{"text": "long day", "type": "film"}]}
    assert spoken == [{**row, "audio": "audio/test-000.ogg", "voice": "piper en_US-joe"}]


def test_the_recipe_loads_once_its_data_is_made(made):
    assert load_recipe(Recipe, made).name == "sgd-music"
