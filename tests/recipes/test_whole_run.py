"""The demonstration as a user runs it, from nothing to the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from adapt.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_music_gets_better_from_text_alone_and_the_source_is_kept(tmp_path):
    result = CliRunner().invoke(main, ["run", str(ROOT / "recipes/music"), "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "scores/metrics.json").read_text())["rows"]
    score = {(row["set"], row["system"]): row for row in rows}
    base, adapted = score["target", "base"], score["target", "adapted"]
    assert adapted["wer"] < base["wer"] and adapted["p_wer"] < 0.05
    assert adapted["eer"] < base["eer"] and adapted["p_eer"] < 0.05
    assert score["source", "adapted"]["wer"] - score["source", "base"]["wer"] <= 0.005
