"""`adapt robustness`: a line for each condition, with and without an adapter."""

from __future__ import annotations

import json

from ..session import adapt


def test_robustness_has_a_line_for_each_condition_and_a_column_for_each_system(recipe, tmp_path):
    out = tmp_path / "run"
    alone = adapt("robustness", recipe, "-o", out)
    assert alone.exit_code == 0, alone.output
    lines = alone.stdout.splitlines()
    assert lines[0].split() == ["set", "utterances", "base"], "without an adapter the base alone is scored"
    assert [line.split()[:2] for line in lines[1:4]] == [["clean", "2"], ["white", "20"], ["white", "10"]]
    assert adapt("decoder", recipe, "-o", out).exit_code == 0
    both = adapt("robustness", recipe, "-o", out, "--json")
    rows = json.loads(both.stdout)["rows"]
    assert [row["system"] for row in rows[:2]] == ["base", "adapted"], "the adapter of the run is scored, too"
    assert len(rows) == 22, "both systems in each of the 11 conditions"
    assert both.stderr.count("as before") == 11, "the base is not transcribed again"


def test_a_set_that_the_recipe_does_not_have_is_an_error(recipe, tmp_path):
    wrong = adapt("robustness", recipe, "-o", tmp_path / "run", "--on", "dev")
    assert wrong.exit_code == 1 and "choose one of target, source" in wrong.stderr, wrong.output
