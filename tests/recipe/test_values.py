from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from adapt.recipe.values import relative, similar_name, to_yaml


@pytest.mark.parametrize("value", ["no", "12:30", "1e5", "", "é", 1e-5, 0.002, 30, None, "a: b"])
def test_yaml_of_a_value_reads_back_as_the_same(value):
    assert yaml.safe_load(f"key: {to_yaml(value)}") == {"key": value}


def test_paths_are_relative_unless_only_the_root_is_shared():
    folder = Path("/recipes/music")
    assert relative(Path("/recipes/music/text.txt"), folder) == "text.txt"
    assert relative(Path("/recipes/lexicon.tsv"), folder) == "../lexicon.tsv"
    assert relative(Path("/data/text.txt"), folder) == "/data/text.txt"


def test_a_similar_name_is_sought_beside_the_first_missing_part(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text/train.txt").touch()
    assert similar_name(tmp_path / "text/trian.txt") == "; did you mean `train.txt`?"
    assert similar_name(tmp_path / "txet/train.txt") == "; did you mean `text`?"
    assert similar_name(tmp_path / "zzz") == ""
