"""A first session on the command line, with a tiny model, a tiny recipe, and what a user may get wrong."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from adapt.cli import main

from .model.families import BUILDERS, WITHOUT_PROCESSOR
from .session import adapt, write_manifest


def test_every_command_has_help():
    for name, command in main.commands.items():
        result = adapt(name, "--help")
        assert result.exit_code == 0 and command.help
        options = [p for p in command.params if p.param_type_name == "option"]
        assert [p.name for p in options if not p.help] == []


def test_run_twice_then_with_a_changed_key(recipe, tmp_path):
    out = tmp_path / "run"
    first = adapt("run", recipe, "-o", out)
    assert first.exit_code == 0, first.output
    table = first.stdout
    rows = [[name, system] for name in ("target", "source") for system in ("base", "ctc", "adapted")]
    assert [line.split()[:2] for line in table.splitlines()[1:7]] == rows
    assert "utts:2+2" in table
    metrics = json.loads((out / "scores/metrics.json").read_text())
    assert {row["system"] for row in metrics["rows"]} == {"base", "adapted", "ctc"}
    assert metrics["rows"][0]["counts"]["mentions"] == 2
    assert "<svg" in (out / "report.html").read_text()
    assert not list((out / "checkpoints").iterdir())

    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.name not in ("recipe.yaml", ".lock")}
    again = adapt("run", recipe, "-o", out)
    assert again.stdout == table
    assert all(p.stat().st_mtime_ns == before[p] for p in before)
    assert again.stderr.count("as before") == 10

    changed = adapt("run", recipe, "-o", out, "-s", "decoder.steps=2")
    assert changed.exit_code == 0
    assert "decoder.steps changed: 4 -> 2" in changed.stderr
    assert changed.stderr.count("as before") >= 6  # text, prompt, and both transcripts of base and of ctc

    card = out / "export/README.md"
    assert adapt("export", out, "--adapter-only").exit_code == 0 and "| target | adapted |" in card.read_text()
    assert adapt("decoder", recipe, "-o", out, "-s", "decoder.steps=1").exit_code == 0
    assert adapt("export", out, "--adapter-only").exit_code == 0  # what was scored is another adapter
    assert "It has not been scored" in card.read_text() and "\n  steps: 1\n" in card.read_text()


def test_another_normaliser_is_heeded_where_the_text_stays_the_same(recipe, tmp_path):
    options = ("-o", tmp_path / "run", "-s", "fusion.boost=0.1", "-s", "fusion.lm=0.1")
    assert adapt("run", recipe, *options).exit_code == 0
    page = (tmp_path / "run/report.html").stat().st_mtime_ns
    other = adapt("run", recipe, *options, "-s", "data.normaliser=none")
    assert other.exit_code == 0 and (tmp_path / "run/report.html").stat().st_mtime_ns != page
    lines = other.stderr.splitlines()
    redone = [line.split()[0] for line, why in itertools.pairwise(lines) if "data.normaliser changed" in why]
    assert set(redone) == {"text", "decoder", "lm", "transcribe", "score"}, other.stderr


def test_a_recipe_without_recordings_ends_in_an_adapter(recipe, tmp_path):
    none = [w for key in ("test", "source_test", "source_replay", "source_dev") for w in ("-s", f"data.{key}=")]
    options = ("-o", tmp_path / "run", *none, "-s", "decoder.pseudo_audio=soft-prompt")
    wrong = adapt("run", recipe, *options)
    assert wrong.exit_code == 1 and "no examples of its audio embeddings" in wrong.stderr
    assert "name data.source_replay in the recipe, or set prompt.init to text" in wrong.stderr
    done = adapt("run", recipe, *options, "-s", "prompt.init=text")  # the way out that is told there
    assert done.exit_code == 0, done.output
    nothing, use = done.stdout.splitlines()
    assert nothing.startswith("Nothing is scored") and use.endswith(f"--adapter {tmp_path / 'run/adapter'}")
    assert adapt("run", recipe, *options, "-s", "prompt.init=text", "--json").stdout == "{}\n"


def test_replay_leaves_out_what_the_base_would_cut(recipe, tmp_path):
    wanted = [
        (0, "1 of source.jsonl left out, longer than the 30 s that the base takes"),
        (1, "all of it is longer than the 30 s that the base takes; cut it"),
    ]
    for long, (code, told) in zip((2, 1), wanted, strict=True):
        soundfile.write(recipe / f"{long}.wav", np.zeros(31 * 16_000), 16_000)
        result = adapt("decoder", recipe, "-o", tmp_path / "run")
        assert result.exit_code == code and told in result.stderr, result.output


def test_precision_reaches_both_stages(recipe, tmp_path):
    written = []
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        assert adapt("decoder", recipe, "-o", out, "-s", f"precision={precision}").exit_code == 0
        files = ("prompt/soft_prompt.safetensors", "adapter/adapter_model.safetensors")
        written.append([(out / file).read_bytes() for file in files])
    assert all(one != other for one, other in zip(*written, strict=True))


def test_transcribe_prints_a_line_a_file(recipe, tiny):
    result = adapt("transcribe", recipe / "0.wav", recipe / "1.wav", "--base", tiny.name, "--num-beams", 1)
    assert result.exit_code == 0, result.output
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [
        str(recipe / "0.wav"),
        str(recipe / "1.wav"),
    ]


def test_a_recording_that_is_named_twice_is_told(recipe, tiny):
    result = adapt("transcribe", recipe / "0.wav", recipe / "0.wav", "--base", tiny.name)
    assert result.exit_code == 1 and f"{recipe / '0.wav'}: 2 of the recordings have this name" in result.stderr


def test_transcribe_by_ctc_leaves_the_decoder_out(recipe, tiny, tmp_path):
    out = tmp_path / "ctc.jsonl"
    result = adapt("transcribe", recipe / "test.jsonl", "--base", tiny.name, "--decoder", "ctc", "--out", out)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert {line["id"] for line in lines} == {"0", "1"}
    assert all(0 < line["confidence"] <= 1 if line["text"] else line["confidence"] is None for line in lines)
    both = adapt("transcribe", "x.wav", "--decoder", "ctc", "--adapter", tmp_path)
    assert both.exit_code == 2 and "--adapter adapts" in both.stderr


def test_robustness_has_a_line_a_condition(recipe, tmp_path):
    out = tmp_path / "run"
    alone = adapt("robustness", recipe, "-o", out)
    assert alone.exit_code == 0, alone.output
    lines = alone.stdout.splitlines()
    assert lines[0].split() == ["set", "utterances", "base"]
    assert [line.split()[:2] for line in lines[1:4]] == [["clean", "2"], ["white", "20"], ["white", "10"]]
    assert adapt("decoder", recipe, "-o", out).exit_code == 0
    both = adapt("robustness", recipe, "-o", out, "--json")
    rows = json.loads(both.stdout)["rows"]
    assert [row["system"] for row in rows[:2]] == ["base", "adapted"] and len(rows) == 22
    assert both.stderr.count("as before") == 11
    wrong = adapt("robustness", recipe, "-o", out, "--on", "dev")
    assert wrong.exit_code == 1 and "choose one of target, source" in wrong.stderr


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
    assert given.exit_code == 0 and "taken this once; the next run estimates its own again" in given.stderr
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
    assert after.exit_code == 0 and "tuned.json, in place of the recipe's" in after.stderr, after.output
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
        (["fusion.reward=1"], "fusion.reward: of tokens alone"),
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


def test_transcribe_with_all_that_can_be_fused(recipe, tiny, tmp_path):
    assert adapt("lm", recipe, "-o", tmp_path / "run").exit_code == 0
    lm = tmp_path / "run/lm"
    common = [recipe / "test.jsonl", "--base", tiny.name, "--lexicon", recipe / "lexicon.tsv"]
    out = tmp_path / "nbest.jsonl"
    result = adapt("transcribe", *common, "--lm", lm / "tokens.arpa", "--ilm", 0.1, "--nbest", 3, "--out", out)
    assert result.exit_code == 0, result.output
    for line in map(json.loads, out.read_text().splitlines()):
        scores = [h["score"] for h in line["nbest"]]
        assert line["text"] == line["nbest"][0]["text"] and len(scores) == 3
        assert {"model", "lm", "ilm", "boost", "ctc"} <= line["nbest"][0].keys()
    before = out.read_text()
    again = adapt("transcribe", *common, "--ctc-weight", 0, "--out", out)
    assert again.exit_code == 0 and "there already" in again.stderr and out.read_text() == before
    assert "there already" not in result.stderr
    for options, told in (
        (["--lm", lm / "words.arpa"], "not token ids"),
        (["--lm", tmp_path / "x.arpa"], "no such file"),
        (["--rescore", recipe], "cannot be loaded"),
        (["--decoder", "ctc", "--lm", lm / "tokens.arpa"], "needs words"),
    ):
        wrong = adapt("transcribe", *common, *options)
        assert wrong.exit_code == 1 and told in wrong.stderr and "Traceback" not in wrong.output
    assert adapt("transcribe", *common, "--nbest", 9).exit_code == 2
    for option in ("--boost", "--lm-weight", "--ilm"):
        for value in ("nan", "inf", -1):
            assert adapt("transcribe", *common, option, value).exit_code == 2
    below = adapt("transcribe", recipe / "0.wav", *common[1:], "--out", recipe / "0.wav/x.jsonl")
    assert below.exit_code == 1 and "0.wav: " in below.stderr and "Traceback" not in below.output
    soundfile.write(recipe / "nan.wav", np.full(16_000, np.nan, np.float32), 16_000, "FLOAT")
    nan = adapt("transcribe", recipe / "nan.wav", *common[1:])
    assert nan.exit_code == 1 and "nan.wav: holds samples that are NaN or infinite" in nan.stderr
    rows = [json.loads(line) for line in (recipe / "test.jsonl").read_text().splitlines()]
    rows[1]["phrases"] = ["the song", "Beyonc\u00e9"]
    (recipe / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = adapt("transcribe", *common, "--out", tmp_path / "own.jsonl")
    assert (
        named.exit_code == 1
        and "phrases: 'Beyonc\u00e9' cannot" in named.stderr
        and not (tmp_path / "own.jsonl").exists()
    )
    pytest.importorskip("pyctcdecode")
    by_ctc = "--decoder", "ctc"
    (recipe / "strange.tsv").write_text("\u6b4c\n")
    unwritten = adapt("transcribe", recipe / "0.wav", *common[1:3], "--lexicon", recipe / "strange.tsv", *by_ctc)
    assert unwritten.exit_code == 1 and "none of it can be written" in unwritten.stderr
    ctc = adapt("transcribe", *common, *by_ctc, "--lm", lm / "words.arpa")
    assert ctc.exit_code == 0 and len(ctc.stdout.splitlines()) == 2, ctc.output


def test_score_by_hand(tmp_path):
    write_manifest(tmp_path / "refs.jsonl", ["a", "b"])
    for name, said in (("one", "play a song"), ("two", "play the song")):
        lines = [json.dumps({"id": i, "text": said}) for i in "ab"]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    result = adapt("score", tmp_path / "refs.jsonl", tmp_path / "one.jsonl", tmp_path / "two.jsonl", "--json")
    rows = json.loads(result.stdout)["rows"]
    assert [(row["system"], row["wer"], row["eer"]) for row in rows] == [
        ("one", pytest.approx(1 / 3), 1),
        ("two", 0, 0),
    ]


def test_score_of_other_tools_files(tmp_path):
    (tmp_path / "refs.tsv").write_text('a\tcall ann\t["ann"]\t[]\nb\tstop\t[]\t[]\nc\tgo\t[]\t[]\n')
    (tmp_path / "one.trn").write_text("call dan (a)\nstop (b)\n")
    (tmp_path / "two").write_text("a call ann\nb stop\n")
    files = [tmp_path / name for name in ("refs.tsv", "one.trn", "two")]
    refused = adapt("score", *files)
    assert refused.exit_code == 1
    assert [line for line in refused.stderr.splitlines() if "hypothesis of 'c' missing" in line and "--lenient" in line]
    result = adapt("score", *files, "--lenient", "--convention", "is21", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "refs, two: EER 100.0 -> 0.0, 100 % lower" in result.stdout
    assert "wer|conv:is21|norm:basic|lex:none|utts:2|lenient:of 3|" in result.stdout
    found = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file())
    scores = [f"scores/{name}" for name in ("errors.tsv", "metrics.json", "table.md")]
    assert found == ["hyps/refs.jsonl", "hyps/refs.one.jsonl", "hyps/refs.two.jsonl", "report.html", *scores]
    assert "ann\tann\tdan" in (tmp_path / "out/scores/errors.tsv").read_text()


WRONG = {
    "a typo in the recipe": ("recipe.yaml", lambda s: s.replace("steps: 4", "stesp: 4", 1), "did you mean"),
    "a missing text file": ("recipe.yaml", lambda s: s.replace("text.txt", "texts.txt"), "did you mean"),
    "an empty text file": ("text.txt", lambda s: "", "text.txt"),
    "a missing audio file": ("test.jsonl", lambda s: s.replace("0.wav", "9.wav"), "9.wav"),
    "an unreadable wav": ("0.wav", lambda s: "not audio", "not readable as audio"),
    "a wav of nothing": ("0.wav", lambda s: "RIFF", "not readable as audio"),
    "a broken manifest": ("test.jsonl", lambda s: s.replace('"id"', '"di"', 1), "test.jsonl:1"),
    "a missing base": ("recipe.yaml", lambda s: s.replace("base: ", "base: tinny # "), "tinny"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_gives_one_line_and_exit_code_1(recipe, tmp_path, mistake):
    name, change, told = WRONG[mistake]
    path = recipe / name
    path.write_text(change("" if name.endswith("wav") else path.read_text()))
    result = adapt("run", recipe, "-o", tmp_path / "run")
    message = [line for line in result.stderr.splitlines() if told in line]
    assert result.exit_code == 1 and len(message) == 1, result.output
    assert "Traceback" not in result.stderr and result.stdout == ""
    assert ";" in message[0]


def test_help_and_usage(tmp_path):
    assert adapt("rnu").exit_code == 2
    assert adapt("transcribe", tmp_path / "absent.wav").exit_code == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    result = adapt("check", empty)
    assert result.exit_code == 1 and "no such recipe" in result.stderr


@pytest.mark.parametrize("entities", [True, None])  # with their names annotated, or found by the lexicon
def test_check_tells_of_words_that_the_text_lacks(recipe, entities):
    def told(said):
        lines = {i: {"id": i, "audio": f"{i}.wav", "text": text} for i, text in enumerate(said)}
        if entities:
            lines[0]["entities"] = [{"text": "absent name", "type": "track"}]
        (recipe / "dev.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines.values()))
        result = adapt("check", recipe, "-s", "data.dev=dev.jsonl")
        assert result.exit_code == 0
        return next(line for line in result.stdout.splitlines() if line.split()[1] == "words")

    wide = told(["Please play absent name now", "stop the song"])
    assert wide.startswith("ok") and wide.endswith("0% of the words of dev.jsonl, names apart, are nowhere in the text")
    narrow = told(["please rewind absent name now", "rewind it"])
    assert narrow.startswith("warn") and "60% of" in narrow and "'rewind', 'it'" in narrow and "varied" in narrow


@pytest.mark.parametrize("kind", ["qwen2_audio", "qwen3_asr", "granite_speech", "voxtral"])
def test_any_speech_llm_runs_a_recipe(recipe, kind, tmp_path, monkeypatch):
    if kind in WITHOUT_PROCESSOR:
        pytest.skip(WITHOUT_PROCESSOR[kind])
    monkeypatch.chdir(tmp_path)
    BUILDERS[kind](tmp_path / kind)
    told = adapt("check", "--base", kind, "--audio", recipe / "0.wav")
    assert told.exit_code == 0 and "slot" in told.stdout, told.output
    changed = ("-s", "decoder.pseudo_audio=auto", "-s", "fusion.boost=1")
    first = adapt("run", recipe, "--base", kind, *changed)
    assert first.exit_code == 0, first.output
    out = Path("runs") / f"{recipe.name}-{kind}"
    rows = json.loads((out / "scores/metrics.json").read_text())["rows"]
    assert [row["system"] for row in rows[:4]] == ["base", "base + boost", "adapted", "adapted + boost"]
    assert json.loads((out / "adapter/adapt.json").read_text())["pseudo_audio"] == "soft-prompt"
    (tmp_path / "runs/broken").mkdir()
    (tmp_path / "runs/broken/run.json").write_text("{")
    listed = adapt("ls", "runs")
    assert "run.json is broken" in listed.stdout
    assert str(out) in listed.stdout and "decoder" in listed.stdout
    soft = tmp_path / "soft.safetensors"
    soft.write_bytes((out / "prompt/soft_prompt.safetensors").read_bytes())
    again = adapt("decoder", recipe, "--base", kind, *changed, "-s", f"prompt.start={soft}", "-o", "again")
    assert again.exit_code == 0 and "taken as it is" in again.stderr, again.output
    refused = adapt("run", recipe, "--base", kind, "-s", "decoder.pseudo_audio=simulate")
    assert refused.exit_code == 1 and "take soft-prompt" in refused.stderr
    assert adapt("export", out).exit_code == 0
    heard = adapt("transcribe", recipe / "0.wav", "--base", out / "export")
    assert heard.exit_code == 0, heard.output


def test_a_learned_prompt_stands_around_both_stages(recipe, tiny, tmp_path):
    rows = [{"id": str(i), "audio": f"{i % 3}.wav", "text": "play the song"} for i in range(12)]
    (recipe / "paired.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changed = ["-s", "data.paired=paired.jsonl", "-s", "project.method=residual", "-s", "project.steps=4"]
    changed += ["-s", "project.batch_size=4", "-s", "project.eval_every=2"]
    changed += ["-s", "project.template=<p:play the song><speech>now", "-s", "decoder.pseudo_audio=soft-prompt"]
    out = tmp_path / "run"
    first = adapt("run", recipe, "-o", out, *changed)
    assert first.exit_code == 0, first.output
    rows = json.loads((out / "scores/metrics.json").read_text())["rows"]
    assert [row["system"] for row in rows[:4]] == ["base", "ctc", "projected", "adapted"]
    assert (out / "project/prompt.safetensors").exists()
    again = adapt("run", recipe, "-o", out, *changed)
    assert again.stdout == first.stdout and again.stderr.count("as before") == 13
    wanted = json.loads((out / "hyps/target.adapted.jsonl").read_text().splitlines()[0])
    assert adapt("export", out).exit_code == 0
    for base in (["--adapter", out / "adapter"], ["--base", out / "export"]):
        base = base if "--base" in base else [*base, "--base", tiny.name]
        options = ["--num-beams", "2", "--out", tmp_path / f"{len(base)}.jsonl"]
        heard = adapt("transcribe", recipe / "test.jsonl", *base, *options)
        assert heard.exit_code == 0, heard.output
        texts = [json.loads(line) for line in (tmp_path / f"{len(base)}.jsonl").read_text().splitlines()]
        (text,) = (t["text"] for t in texts if t["id"] == wanted["id"])
        assert text.startswith(wanted["text"])  # there it ended after 8 tokens
    soft = out / "project/prompt.safetensors"
    alone = adapt("transcribe", recipe / "test.jsonl", "--base", tiny.name, "--prompt", soft, "--num-beams", "2")
    wanted = json.loads((out / "hyps/target.projected.jsonl").read_text().splitlines()[0])
    assert f"{wanted['id']}\t{wanted['text']}" in alone.stdout
    taken = adapt("prompt", recipe, "-o", tmp_path / "other", "-s", f"prompt.start={soft}")
    assert taken.exit_code == 0 and "taken as it is" in taken.stderr, taken.output
    spelled = adapt("project", recipe, "-o", out, *changed, "-s", "data.normaliser=none")
    assert 'data.normaliser changed: "basic" -> "none"' in spelled.stderr
    plain = adapt("project", recipe, "-o", out)
    assert plain.exit_code == 2 and "set project.method" in plain.stderr
    wrong = adapt("project", recipe, "-o", out, *changed, "-s", "project.template=<p:play <speech>")
    assert wrong.exit_code == 1 and "column" in wrong.stderr


def test_what_is_trained_from_paired_audio_is_where_the_stages_start(recipe, tiny, tmp_path):
    rows = [{"id": str(i), "audio": f"{i % 3}.wav", "text": "play the song"} for i in range(12)]
    (recipe / "paired.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changed = ["-s", "data.paired=paired.jsonl", "-s", "project.steps=4", "-s", "project.batch_size=4"]
    changed += ["-s", "project.eval_every=2", "-s", "project.encoder=trained", "-s", "decoder.pseudo_audio=soft-prompt"]
    out = tmp_path / "run"
    refused = adapt("run", recipe, "-o", out, *changed)
    assert refused.exit_code == 1 and "project.encoder: its frozen projector" in refused.stderr
    changed += ["-s", "project.projector=trained", "-s", "project.llm=lora", "-s", "project.weights_rate=0.01"]
    quantised = adapt("run", recipe, "-o", out, *changed, "-s", "quantise=4-bit")
    assert quantised.exit_code == 1 and "leave out quantise" in quantised.stderr
    first = adapt("run", recipe, "-o", out, *changed)
    assert first.exit_code == 0, first.output
    model = out / "project/model"
    assert f"--base {model}" in first.stdout
    rows = json.loads((out / "scores/metrics.json").read_text())["rows"]
    assert [row["system"] for row in rows[:4]] == ["base", "ctc", "projected", "adapted"]
    again = adapt("run", recipe, "-o", out, *changed)
    assert again.stdout == first.stdout and again.stderr.count("as before") == 13
    for system, more in {"projected": [], "adapted": ["--adapter", out / "adapter"]}.items():
        wanted = json.loads((out / f"hyps/target.{system}.jsonl").read_text().splitlines()[0])
        found = adapt("transcribe", recipe / "test.jsonl", "--base", model, *more, "--num-beams", "2")
        assert f"{wanted['id']}\t{wanted['text']}" in found.stdout, found.output
    other = adapt("transcribe", recipe / "test.jsonl", "--base", tiny.name, "--adapter", out / "adapter")
    assert other.exit_code == 1 and "made for" in other.stderr
    assert adapt("export", out).exit_code == 0


def test_prompts_are_compared_on_the_development_set(recipe, tmp_path):
    rows = [{"id": str(i), "audio": f"{i % 3}.wav", "text": "play the song"} for i in range(12)]
    (recipe / "paired.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (recipe / "prompts.txt").write_text("<speech>now\nplay the song <speech>\n")
    settings = ["-s", "project.steps=2", "-s", "project.batch_size=4", "-o", tmp_path / "run", "--seeds", "2"]
    call = ["prompts", recipe, "--prompts", recipe / "prompts.txt", "-s", "data.paired=paired.jsonl", *settings]
    assert "data.dev: missing" in adapt(*call).stderr
    call += ["-s", "data.dev=test.jsonl"]
    found = adapt(*call, "--json")
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    trials = {method["method"]: method["trials"] for method in told["methods"]}
    assert trials == {"own": 1, "plain": 2, "tokens-8": 4, "mlp": 4, "residual": 4}
    assert (tmp_path / "run/prompts/wer.png").exists()
    again = adapt(*call)
    assert again.exit_code == 0 and "Use: " in again.stdout
    assert "unknown" in adapt(*call, "--method", "token").stderr


def test_mistakes_with_bases_adapters_and_devices(tiny, recipe, tmp_path):
    audio, base = recipe / "0.wav", ("--base", tiny.name)

    def told(*arguments):
        result = adapt(*arguments)
        assert result.exit_code in (1, 2) and "Traceback" not in result.output, result.output
        return result.stderr

    assert "unknown 'cdua'" in told("transcribe", audio, *base, "--device", "cdua")
    assert "is not there" in told("transcribe", audio, *base, "--device", "cuda:99")
    assert "not for models built by `adapt base`" in told("transcribe", audio, *base, "--quantise", "4-bit")
    assert "have one name" in told("transcribe", audio, *base, "--adapter", "a=x", "--adapter", "a=y")
    assert "has no name" in told("transcribe", audio, *base, "--adapter", "x", "--adapter", "a=y")
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    assert "cannot be read" in told("transcribe", audio, *base, "--prompt", tmp_path / "bad.safetensors")
    assert "cannot be read" in told("prompt", recipe, "-s", f"prompt.start={tmp_path / 'bad.safetensors'}")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text("{")
    assert "cannot be read" in told("check", "--base", tmp_path / "broken")
    assert "nothing to look at" in told("check")
    BUILDERS["qwen2_audio"](tmp_path / "qwen")
    assert "no encoder with a CTC head" in told("transcribe", audio, "--base", tmp_path / "qwen", "--decoder", "ctc")
    assert "no such file" in told("import", tmp_path / "model.pt", "--encoder", "x", "--llm", "y", "-o", tmp_path / "z")
    assert "has no adapter" in told("export", tmp_path)
