"""`adapt compare`: kinds of pseudo audio with several seeds, in one table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from adapt import compare
from adapt.recipe.domain import Recipe
from adapt.recipe.load import load_recipe
from adapt.train import decoder

from ..session import adapt
from .conftest import Finished, overrides

METHODS = ["--method", "soft-prompt", "--method", "denoise,noise=0.2", "--seeds", 2]
SHORT = overrides("prompt.steps=2", "decoder.steps=2", "fusion.boost=1", "transcribe.names=both")


@pytest.fixture
def compared(finish) -> Finished:
    """Two methods with two seeds each."""
    return finish("compared", "compare", "--json", *METHODS, *SHORT)


def test_each_method_is_trained_with_each_seed_and_scored_alone_and_with_all_that_is_added(compared):
    found = json.loads(compared.stdout)
    rows = [(row["method"], row["seed"], row["added"]) for row in found["rows"]]
    trained = [(method, seed) for method in ("soft-prompt", "denoise,noise=0.2") for seed in (1, 2)]
    assert rows == [(m, s, added) for m, s in [("base", 0), *trained] for added in ("", "names + boost")]
    for row in found["rows"]:
        folder = compared.run / (f"{row['method']}-{row['seed']}" if row["seed"] else "base").replace(",", "-")
        if row["seed"]:
            settings = json.loads((folder / "run.json").read_text())["stages"]
            assert settings["decoder"]["settings"]["seed"] == row["seed"] and settings["text"]["settings"]["seed"] == 1
            metrics = json.loads((folder / "scores/metrics.json").read_text())["rows"]
            of = "adapted + names + boost" if row["added"] else "adapted"
            scored = {m["set"]: m["wer"] for m in metrics if m["system"] == of}
            assert (row["figures"]["wer"], row["figures"]["source"]) == (scored["target"], scored["source"])
            assert row["seconds"] > 0 and row["parameters"] > 0
    soft, denoised = (next(r for r in found["rows"] if r["method"] == m) for m in ("soft-prompt", "denoise,noise=0.2"))
    assert soft["parameters"] > denoised["parameters"], "the vectors of the soft prompt are counted"
    assert len(found["methods"]) == 6 and (compared.run / "comparison.png").exists()
    text = {path.read_text() for path in compared.run.glob("*/text/train.txt")}
    assert len(text) == 1, "seeds change the training alone"


def test_a_second_comparison_trains_nothing_and_a_lost_training_is_done_again(compared, monkeypatch):
    call = ["compare", compared.recipe, "-o", compared.run, *METHODS, *SHORT]
    with monkeypatch.context() as patch:
        patch.setattr(decoder, "tune_decoder", None)
        assert adapt(*call, "--json").stdout == compared.stdout
    shutil.rmtree(compared.run / "soft-prompt-2/adapter")
    again = adapt(*call)
    assert again.exit_code == 0 and "soft-prompt + names + boost" in again.stdout, again.output
    rows = json.loads((compared.run / "table.json").read_text())["rows"]
    assert [row["figures"] for row in rows] == [row["figures"] for row in json.loads(compared.stdout)["rows"]]


def test_means_and_deviations_are_over_seeds():
    trials = [compare.Trial("m", seed, "", {"wer": wer, "eer": None}, 2.0, 5) for seed, wer in ((1, 0.1), (2, 0.2))]
    comparison = compare.Comparison(trials)
    (row,) = comparison.summaries()
    assert row["figures"] == {"wer": {"mean": pytest.approx(0.15), "deviation": pytest.approx(0.0707, abs=1e-4)}}
    assert "15.0 ± 7.1" in comparison.table() and "n/a" in comparison.table()


def test_without_a_choice_each_kind_that_the_recipe_allows_is_compared(recipe):
    def kinds(*settings: str) -> set[str]:
        methods = compare.read_methods((), lambda more: load_recipe(Recipe, recipe, [*settings, *more]))
        return {method.name for method in methods}

    assert kinds() == {*compare.METHODS} - {"speech"}
    assert kinds("data.source_replay=", "decoder.speak=say {out}") == {*compare.METHODS} - {"generate"}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--method", "simulat"], "did you mean `simulate`"),
        (["--method", "empty,stpes=3"], "did you mean `decoder.steps`"),
        (["-s", "data.test="], "data.test: missing"),
        (overrides("fusion.ilm=0.1", "fusion.ilm_slot=soft-prompt"), "fusion.ilm_slot: each training"),
    ],
)
def test_a_mistake_is_one_line(recipe, tmp_path, options, problem):
    found = adapt("compare", recipe, "-o", tmp_path / "run", *options)
    assert found.exit_code == 1 and problem in found.stderr, found.output
    assert found.stderr.count("\n") == 1


def test_a_folder_with_other_files_is_refused(recipe, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    found = adapt("compare", recipe, "-o", tmp_path, *METHODS)
    assert found.exit_code == 1 and "no comparison has written" in found.stderr, found.output
    assert Path(tmp_path / "notes.txt").exists()
