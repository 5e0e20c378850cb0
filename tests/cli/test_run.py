"""`adapt run`, `adapt decoder` and `adapt check` over a small recipe."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import soundfile

from ..session import adapt


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
    assert "has not been scored" in card.read_text() and "\n  steps: 1\n" in card.read_text()


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
    assert wrong.exit_code == 1 and "prompt.init: 'audio' needs audio embeddings of real audio" in wrong.stderr
    assert "name data.source_replay in the recipe, or set prompt.init to text" in wrong.stderr
    done = adapt("run", recipe, *options, "-s", "prompt.init=text")  # the way out that is told there
    assert done.exit_code == 0, done.output
    nothing, use = done.stdout.splitlines()
    assert nothing.startswith("Nothing is scored") and use.endswith(f"--adapter {tmp_path / 'run/adapter'}")
    assert adapt("run", recipe, *options, "-s", "prompt.init=text", "--json").stdout == "{}\n"


def test_replay_leaves_out_what_the_base_would_cut(recipe, tmp_path):
    wanted = [
        (0, "source.jsonl: 1 of 2 recordings left out, longer than the 30 s that the base takes"),
        (1, "every recording is longer than the 30 s that the base takes; cut them"),
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
    assert wide.startswith("ok") and wide.endswith(
        "0% of the words of dev.jsonl outside of mentions do not occur in the text"
    )
    narrow = told(["please rewind absent name now", "rewind it"])
    assert narrow.startswith("warn") and "60% of" in narrow and "'rewind', 'it'" in narrow and "varied" in narrow
