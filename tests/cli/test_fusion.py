"""`adapt lm`, `adapt tune`, and the fused systems of `adapt run`."""

from __future__ import annotations

import json
import shlex

import pytest

from adapt.text.transcripts import read_hypotheses

from ..session import adapt, write_manifest
from .conftest import Finished, overrides

DEV = ["-s", "data.dev=dev.jsonl"]


def test_lm_gives_the_perplexity_by_order(lm_run):
    orders = json.loads(lm_run.stdout)
    assert [row["order"] for row in orders] == [1, 2, 3, 4]
    assert orders[3]["perplexity"] < orders[0]["perplexity"]
    assert sorted(p.stem for p in (lm_run.run / "lm").glob("*.arpa")) == ["source", "tokens", "words"]


def test_lm_the_second_time_estimates_nothing(lm_run):
    again = adapt("lm", lm_run.recipe, "-o", lm_run.run)
    assert again.stderr.count("as before") == 2, "text and lm are skipped"
    assert again.stdout.splitlines()[-1].endswith("tokens.arpa"), "the last line is the file of the LM"


@pytest.mark.parametrize("kind", ["tokens", "words"])
def test_lm_takes_an_arpa_file_in_place_of_an_estimate(lm_run, kind, tmp_path):
    out, arpa = tmp_path / "given", f"lm/{kind}.arpa"
    (lm_run.run / arpa).rename(tmp_path / "own.arpa")
    given = adapt("lm", lm_run.recipe, "-o", out, "--from", tmp_path / "own.arpa")
    assert given.exit_code == 0, given.output
    assert "used only this time, the next run estimates an LM" in given.stderr
    assert (out / arpa).read_text().strip() == (tmp_path / "own.arpa").read_text().strip()
    own = adapt("lm", lm_run.recipe, "-o", out)
    assert f"lm.{kind} changed" in own.stderr, "the next run estimates its own"


@pytest.mark.parametrize(("name", "problem"), [("none.arpa", "no such file"), ("recipe.yaml", "not an ARPA file")])
def test_a_file_that_is_no_arpa_is_an_error(recipe, name, problem):
    wrong = adapt("lm", recipe, "--from", recipe / name)
    assert wrong.exit_code == 1 and problem in wrong.stderr and "Traceback" not in wrong.output, wrong.output


def test_each_system_with_a_decoder_is_scored_with_the_fusion_of_the_recipe_too(fused_run):
    systems = ["base", "base + LM + ILM + boost", "ctc", "adapted", "adapted + LM + ILM + boost"]
    assert [row["system"] for row in fused_run.rows() if row["set"] == "target"] == systems


@pytest.fixture
def tuned_run(finish, finished_run) -> Finished:
    """`adapt tune` after `adapt run`."""
    pytest.importorskip("pyctcdecode")

    def prepare(recipe) -> None:
        write_manifest(recipe / "dev.jsonl", [0, 2])

    return finish("tuned", "tune", *DEV, prepare=prepare, after=finished_run)


def tuned_systems(run: Finished) -> dict[str, dict]:
    """What `adapt tune` found for each system."""
    return json.loads((run.run / "lm/tuned.json").read_text())["systems"]


def test_tune_counts_on_the_development_set_and_guards_the_source(tuned_run):
    found = tuned_systems(tuned_run)
    assert all(row["counts"]["words"] == 6 and row["surface"] for row in found.values()), "the development set"
    guarded = {row["base"]["source_words"] for row in found.values()}
    assert len(guarded) == 1 and guarded.pop() > 0, "all systems are guarded by the same source words"
    assert "source: WER" in tuned_run.stdout
    words = ["adapt", "run", str(tuned_run.recipe), *DEV, "-o"]
    assert shlex.split(tuned_run.stdout.splitlines()[-1])[1:-1] == words, "the same run"


def test_tune_the_second_time_gives_the_same_weights(tuned_run):
    again = adapt("tune", tuned_run.recipe, "-o", tuned_run.run, *DEV, "--json")
    assert json.loads(again.stdout)["systems"] == tuned_systems(tuned_run)
    tune = next(line for line in again.stderr.splitlines() if line.startswith("tune"))
    assert tune.endswith("as before"), "the search is skipped"


def test_tuned_weights_replace_those_of_the_recipe(tuned_run):
    after = adapt("run", tuned_run.recipe, "-o", tuned_run.run, *DEV)
    assert after.exit_code == 0 and "tuned.json replace those of the recipe" in after.stderr, after.output
    rows = tuned_run.rows()
    assert {row["system"] for row in rows} == {"base", "adapted", "ctc", *tuned_systems(tuned_run)}
    assert "dev" not in {row["set"] for row in rows}, "the development set is not scored"


def test_tune_needs_a_development_set_and_says_so_before_training(recipe, tmp_path):
    (recipe / "lexicon.tsv").write_text("the song\nBeyonc\u00e9\n")  # a second problem, which comes later
    wrong = adapt("tune", recipe, "-o", tmp_path / "run")
    assert wrong.exit_code == 1 and "data.dev: missing" in wrong.stderr, wrong.output
    assert not (tmp_path / "run/adapter").exists(), "nothing is trained"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["fusion.boost=1", "data.lexicon="], "no lexicon to boost"),
        (["fusion.reward=1"], "fusion.reward: alone it has no effect"),
        (["fusion.source=0.1", "data.source_replay="], "fusion.source: no text of the source"),
    ],
)
def test_fusion_without_its_input_is_an_error_before_training(recipe, tmp_path, settings, problem):
    wrong = adapt("run", recipe, "-o", tmp_path / "run", *overrides(*settings))
    assert wrong.exit_code == 1 and problem in wrong.stderr, wrong.output
    assert not (tmp_path / "run/adapter").exists(), "nothing is trained"


def test_development_audio_that_cannot_be_read_is_an_error_before_training(recipe, tmp_path):
    (recipe / "broken.wav").write_text("no audio")
    (recipe / "dev.jsonl").write_text('{"id": "a", "audio": "broken.wav", "text": "stop"}\n')
    wrong = adapt("tune", recipe, "-o", tmp_path / "run", *DEV)
    assert wrong.exit_code == 1 and "broken.wav" in wrong.stderr, wrong.output
    assert not (tmp_path / "run/adapter").exists(), "nothing is trained"


@pytest.mark.parametrize("name", ["run", "tune"])
def test_a_lexicon_that_cannot_be_written_is_an_error_before_training(recipe, tmp_path, name):
    (recipe / "lexicon.tsv").write_text("Beyonc\u00e9\n")
    keys = ["-s", "fusion.boost=0.5", "-s", "data.dev=source.jsonl"]
    wrong = adapt(name, recipe, "-o", tmp_path / "run", *keys)
    assert wrong.exit_code == 1 and "lexicon.tsv: no entry can be written" in wrong.stderr, wrong.output
    assert not (tmp_path / "run/adapter").exists(), "nothing is trained"


def test_the_command_that_run_prints_transcribes_as_its_last_system(fused_run, tmp_path):
    settings = overrides("fusion.lm=0.2", "fusion.ilm=0.1", "fusion.boost=1", "fusion.reward=-0.5")
    run = adapt("run", fused_run.recipe, "-o", fused_run.run, *settings)
    assert run.exit_code == 0, run.output
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("Use it: adapt ")]
    assert all(option in line for option in ("--lexicon", "--lm-weight", "--reward -0.5", "--max-new-tokens")), line
    out = tmp_path / "again.jsonl"
    words = [fused_run.recipe / "test.jsonl" if word == "AUDIO" else word for word in shlex.split(line)[3:]]
    done = adapt(*words, "--out", out)
    assert done.exit_code == 0, done.output
    assert read_hypotheses(out) == read_hypotheses(
        fused_run.run / "hyps/target.adapted + LM + ILM + boost + reward.jsonl"
    )
    more = adapt("run", fused_run.recipe, "-o", fused_run.run, *settings, *overrides("fusion.source=0.1"))
    assert "Use it, without source: adapt" in more.stdout and "--lm-weight" in more.stdout, more.output


def test_check_names_a_part_of_fusion_without_its_input(recipe):
    checked = adapt("check", recipe, "-s", "fusion.boost=0.5", "-s", "data.lexicon=")
    assert checked.exit_code == 1
    assert "fusion.boost: no lexicon to boost" in checked.stdout
    assert checked.stdout.splitlines()[-1].endswith("-s fusion.boost=0.5 -s data.lexicon="), "Next repeats the options"
