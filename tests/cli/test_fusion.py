"""`adapt lm`, `adapt tune`, and the fused systems of `adapt run`."""

from __future__ import annotations

import json

import pytest

from ..session import adapt, write_manifest


def test_lm_tells_perplexity_by_order(recipe, tmp_path):
    out = tmp_path / "run"
    result = adapt("lm", recipe, "-o", out, "--json")
    assert result.exit_code == 0, result.output
    orders = json.loads(result.stdout)
    assert [row["order"] for row in orders] == [1, 2, 3, 4] and orders[3]["perplexity"] < orders[0]["perplexity"]
    assert sorted(p.stem for p in (out / "lm").glob("*.arpa")) == ["source", "tokens", "words"]
    again = adapt("lm", recipe, "-o", out)
    assert again.stderr.count("as before") == 2 and again.stdout.splitlines()[-1].endswith("tokens.arpa")
    given = adapt("lm", recipe, "-o", tmp_path / "given", "--from", out / "lm/tokens.arpa")
    assert given.exit_code == 0 and "used only this time, the next run estimates an LM" in given.stderr
    assert (tmp_path / "given/lm/tokens.arpa").read_text().strip() == (out / "lm/tokens.arpa").read_text().strip()
    words = adapt("lm", recipe, "-o", tmp_path / "given", "--from", out / "lm/words.arpa")
    assert words.exit_code == 0 and "lm.words changed" in words.stderr
    for name, told in (("none.arpa", "no such file"), ("recipe.yaml", "not an ARPA file")):
        wrong = adapt("lm", recipe, "--from", recipe / name)
        assert wrong.exit_code == 1 and told in wrong.stderr and "Traceback" not in wrong.output


def test_fused_systems_of_the_recipe_and_those_that_are_tuned(recipe, tmp_path):
    out = tmp_path / "run"
    weights = [
        "-s",
        "fusion.lm=0.2",
        "-s",
        "fusion.ilm=0.1",
        "-s",
        "fusion.boost=1",
        "-s",
        "fusion.ilm_slot=soft-prompt",
    ]
    fused = adapt("run", recipe, "-o", out, *weights)
    assert fused.exit_code == 0, fused.output
    systems = ["base", "base + LM + ILM + boost", "ctc", "adapted", "adapted + LM + ILM + boost"]
    rows = json.loads((out / "scores/metrics.json").read_text())["rows"]
    assert [row["system"] for row in rows if row["set"] == "target"] == systems
    refused = adapt("tune", recipe, "-o", out)
    assert refused.exit_code == 1 and "data.dev: missing" in refused.stderr

    pytest.importorskip("pyctcdecode")
    write_manifest(recipe / "dev.jsonl", [0, 2])
    dev = ["-s", "data.dev=dev.jsonl"]
    tuned = adapt("tune", recipe, "-o", out, *dev)
    assert tuned.exit_code == 0, tuned.output
    assert tuned.stdout.splitlines()[-1] == f"Next: adapt run {recipe}"
    found = json.loads((out / "lm/tuned.json").read_text())["systems"]
    assert all(row["counts"]["words"] == 6 and row["surface"] for row in found.values())
    guarded = {row["base"]["source_words"] for row in found.values()}
    assert len(guarded) == 1 and guarded.pop() > 0 and "source: WER" in tuned.stdout
    again = adapt("tune", recipe, "-o", out, *dev, "--json")
    assert json.loads(again.stdout)["systems"] == found and "tune" in again.stderr
    after = adapt("run", recipe, "-o", out, *dev)
    assert after.exit_code == 0 and "tuned.json replace those of the recipe" in after.stderr, after.output
    rows = json.loads((out / "scores/metrics.json").read_text())["rows"]
    assert {row["system"] for row in rows} == {"base", "adapted", "ctc", *found} and "dev" not in {
        r["set"] for r in rows
    }


def test_a_lexicon_that_cannot_be_boosted_is_told_before_training(recipe, tmp_path):
    (recipe / "lexicon.tsv").write_text("the song\nBeyonc\u00e9\n")
    wrong = adapt("run", recipe, "-o", tmp_path / "run", "-s", "fusion.boost=1")
    assert wrong.exit_code == 1 and "phrases: 'Beyonc\u00e9' cannot" in wrong.stderr
    assert not (tmp_path / "run/adapter").exists()
    none = adapt("run", recipe, "-o", tmp_path / "run", "-s", "fusion.boost=1", "-s", "data.lexicon=")
    assert none.exit_code == 1 and "no lexicon to boost" in none.stderr
    for options, told in (
        (["fusion.reward=1"], "fusion.reward: alone it has no effect"),
        (["fusion.source=0.1", "data.source_replay="], "fusion.source: no text of the source"),
    ):
        wrong = adapt("run", recipe, "-o", tmp_path / "run", *(word for o in options for word in ("-s", o)))
        assert wrong.exit_code == 1 and told in wrong.stderr and not (tmp_path / "run/adapter").exists()
    (recipe / "lexicon.tsv").write_text("the song\ttrack\nabsent name\ttrack\n")
    told = (recipe / "test.jsonl").read_text()
    (recipe / "test.jsonl").write_text(told.replace('"id": 0', '"phrases": ["Beyonc\u00e9"], "id": 0'))
    for command in (("run", "-s", "fusion.boost=1"), ("tune", "-s", "data.dev=test.jsonl")):
        wrong = adapt(command[0], recipe, "-o", tmp_path / "run", *command[1:])
        assert wrong.exit_code == 1 and "phrases: 'Beyonc\u00e9' cannot" in wrong.stderr
    (recipe / "test.jsonl").write_text(told)
    (recipe / "lexicon.tsv").write_text("the song\nBeyonc\u00e9\n")
    wrong = adapt("tune", recipe, "-o", tmp_path / "run", "-s", "data.dev=test.jsonl")
    assert wrong.exit_code == 1 and "phrases: 'Beyonc\u00e9' cannot" in wrong.stderr
    wrong = adapt("tune", recipe, "-o", tmp_path / "run")
    assert wrong.exit_code == 1 and "data.dev: missing" in wrong.stderr
    assert not (tmp_path / "run/adapter").exists()
