"""Names of a lexicon in the prompt: `adapt transcribe --names`, and the systems of `adapt run` with names."""

from __future__ import annotations

import json
import shlex

import pytest

from adapt.text.transcripts import read_hypotheses
from adapt.tune.counts import DevCounts
from tests.model.builders.parts import tiny_whisper, transcribing_llm

from ..session import adapt, write_manifest
from .conftest import overrides

NAMED = overrides(
    "transcribe.names=both",
    "transcribe.sentences=3",
    "fusion.boost=1",
    "decoder.names=0.5",
    "transcribe.max_new_tokens=120",
)


def test_a_run_scores_none_prompt_boost_and_both(finish, tmp_path, monkeypatch):
    run = finish("named", "run", *NAMED)
    monkeypatch.chdir(run.recipe.parent)
    systems = [row["system"] for row in run.rows() if row["set"] == "target"]
    kinds = ["", " + boost", " + names", " + names + boost"]
    named = [f"{of}{kind}" for of in ("base", "adapted") for kind in kinds]
    assert systems == [*named[:4], "ctc", *named[4:]]
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("Use it: adapt ")]
    assert "--names both" in line
    out = tmp_path / "again.jsonl"
    words = [run.recipe / "test.jsonl" if word == "AUDIO" else word for word in shlex.split(line)[3:]]
    done = adapt(*words, "--out", out)
    assert done.exit_code == 0, done.output
    assert read_hypotheses(out) == read_hypotheses(run.run / "hyps/target.adapted + names + boost.jsonl")
    longer = adapt("decoder", run.recipe, "-o", run.run, *NAMED, *overrides("transcribe.names_in_prompt=3"))
    assert "redone: names_in_prompt changed: 10 -> 3" in longer.stderr, "the decoder is trained with such lists"
    unused = adapt("run", run.recipe, "-o", run.run, *NAMED, *overrides("transcribe.names=none", "decoder.names=0.5"))
    assert unused.exit_code == 0 and "boost" not in unused.stdout and "names" not in unused.stdout, unused.stdout


def test_a_base_that_transcribes_is_tuned_as_it_is_run(recipe, tmp_path, monkeypatch):
    llm = transcribing_llm(tiny_whisper(tmp_path / "whisper"))
    base = tmp_path / "base"
    llm.model.save_pretrained(base)
    llm.tokenizer.save_pretrained(base)
    write_manifest(recipe / "dev.jsonl", [0, 2])
    monkeypatch.setattr(DevCounts, "refused", lambda *_: False)
    settings = [f"base={base}", "data.dev=dev.jsonl", "decoder.pseudo_audio=soft-prompt"]
    settings += ["prompt.init=text", "transcribe.names=both"]
    tuned = adapt("tune", recipe, "-o", tmp_path / "run", *overrides(*settings), "--json")
    assert tuned.exit_code == 0, tuned.output
    systems = json.loads(tuned.stdout)["systems"]
    assert {row["of"] for row in systems.values()} >= {"base", "adapted"}
    ran = adapt("run", recipe, "-o", tmp_path / "run", *overrides(*settings))
    assert ran.exit_code == 0, ran.output
    names = {name.replace(row["of"], f"{row['of']} + names", 1) for name, row in systems.items()}
    scored = {row["system"] for row in json.loads((tmp_path / "run/scores/metrics.json").read_text())["rows"]}
    assert scored >= {*systems, *names, "first pass + names"}
    sentences = ["transcribe.names=prompt", "transcribe.sentences=2"]
    prompt = adapt("run", recipe, "-o", tmp_path / "run", *overrides(*settings[:-1], *sentences))
    assert prompt.exit_code == 0 and "first pass + names + sentences" in prompt.stdout, prompt.output
    assert "run/text/train.txt --sentences 2" in prompt.stdout
    prompt = adapt("run", recipe, "-o", tmp_path / "run", *overrides(*settings[:-1], "transcribe.names=prompt"))
    assert prompt.exit_code == 0 and "boost" not in prompt.stdout and "+ LM" in prompt.stdout, prompt.output


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--names", "prompt"], "there are no names; give --lexicon too"),
        (["--names", "prompt", "--lexicon", "l.tsv", "--boost", "1"], "--names prompt boosts nothing"),
        (["--names", "both", "--lexicon", "l.tsv", "--decoder", "ctc"], "--decoder ctc has no prompt"),
        (["--names", "promt", "--lexicon", "l.tsv"], "'promt' is not one of"),
    ],
)
def test_options_that_exclude_each_other_are_wrong_usage(arguments, problem):
    result = adapt("transcribe", "x.wav", *arguments)
    assert result.exit_code == 2 and problem in result.stderr, result.output


def test_no_use_of_names_needs_no_names():
    result = adapt("transcribe", "x.wav", "--names", "none")
    assert result.exit_code == 1 and "x.wav: no such file" in result.stderr, result.output


def test_lists_in_training_without_a_lexicon_are_an_error_before_it(recipe, tmp_path):
    wrong = adapt("run", recipe, "-o", tmp_path / "run", *overrides("data.lexicon=", "decoder.names=0.5"))
    assert wrong.exit_code == 1 and "decoder.names: there is no lexicon" in wrong.stderr, wrong.output
    assert not (tmp_path / "run/adapter").exists(), "nothing is trained"


def test_terms_of_the_text_take_the_place_of_a_lexicon(recipe, tmp_path, monkeypatch):
    options = ["run", recipe, "-o", tmp_path / "run"]
    options += overrides("data.lexicon=", "transcribe.names=both", "fusion.boost=1")
    names = [f"{letter}olla" for letter in "abcdefghijklmnopqrst"]
    (recipe / "text.txt").write_text("".join(f"play {name}\n" for name in names))
    none = adapt(*options)
    assert none.exit_code == 1 and "no names are found in the text" in none.stderr, none.output
    assert not (tmp_path / "run/adapter").exists(), "nothing is trained"
    lines = [f"{a} {name} {b}" for name in names for a in ("play", "stop") for b in ("now", "again")]
    (recipe / "text.txt").write_text("\n".join(lines) + "\n")
    done = adapt(*options)
    assert done.exit_code == 0 and "base + names + boost" in done.stdout, done.output
    terms = (tmp_path / "run/text/terms.txt").read_text().splitlines()
    assert len(terms) > 10 and set(terms) <= set(names)
    monkeypatch.chdir(tmp_path)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("Use it: adapt ")]
    assert "--names both" in line and "run/text/terms.txt" in line
