"""Other bases, `adapt project`, `adapt prompts` and `adapt robustness`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..model.families import BUILDERS, WITHOUT_PROCESSOR
from ..session import adapt


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
    assert again.exit_code == 0 and "used as given, without training" in again.stderr, again.output
    refused = adapt("run", recipe, "--base", kind, "-s", "decoder.pseudo_audio=simulate")
    assert refused.exit_code == 1 and "write soft-prompt" in refused.stderr
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
    assert taken.exit_code == 0 and "used as given, without training" in taken.stderr, taken.output
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
    assert refused.exit_code == 1 and "project.encoder: a frozen projector" in refused.stderr
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
