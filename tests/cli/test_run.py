"""`adapt run`, `adapt decoder`, `adapt check` and `adapt export` over a small recipe."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pyarrow.parquet
import pytest
import soundfile

from ..session import adapt
from .conftest import FUSED, overrides


def test_a_run_prints_a_row_for_each_set_and_system(finished_run):
    rows = [[name, system] for name in ("target", "source") for system in ("base", "ctc", "adapted")]
    assert [line.split()[:2] for line in finished_run.stdout.splitlines()[1:7]] == rows
    assert "utts:2+2" in finished_run.stdout, "the signature counts the utterances of both sets"


def test_a_run_writes_scores_and_a_report_and_leaves_no_checkpoints(finished_run):
    rows, out = finished_run.rows(), finished_run.run
    assert {row["system"] for row in rows} == {"base", "adapted", "ctc"}
    assert rows[0]["counts"]["mentions"] == 2
    assert "<svg" in (out / "report.html").read_text(), "the report has a figure"
    assert not list((out / "checkpoints").iterdir()), "no checkpoint is left"


def test_a_second_run_skips_every_stage_and_prints_the_same_table(finished_run):
    out = finished_run.run
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.name not in ("recipe.yaml", ".lock")}
    again = adapt("run", finished_run.recipe, "-o", out)
    assert again.stdout == finished_run.stdout, "the table is the same"
    written = [p for p, time in before.items() if p.stat().st_mtime_ns != time]
    assert written == [], "no file is written again"
    assert again.stderr.count("as before") == 10, "every stage is skipped"


def test_a_changed_key_redoes_the_stages_that_depend_on_it(finished_run):
    changed = adapt("run", finished_run.recipe, "-o", finished_run.run, "-s", "decoder.steps=2")
    assert changed.exit_code == 0, changed.output
    assert "decoder.steps changed: 4 -> 2" in changed.stderr, "the reason is printed"
    kept = changed.stderr.count("as before")
    assert kept >= 6, "text, prompt, and both transcripts of base and of ctc are kept"


def test_a_recording_that_changes_between_two_runs_is_transcribed_again(finished_run):
    recording = finished_run.recipe / "0.wav"
    samples = recording.read_bytes()
    recording.write_bytes(samples[:-2] + bytes([samples[-2] ^ 1, samples[-1]]))
    again = adapt("run", finished_run.recipe, "-o", finished_run.run)
    assert again.exit_code == 0, again.output
    redone = [line for line in again.stderr.splitlines() if "0.wav changed" in line]
    assert len(redone) == 3, "each system transcribes the target set again: base, ctc and adapted"


def test_the_card_of_an_adapter_holds_its_scores_unless_it_was_trained_since(finished_run):
    recipe, out = finished_run.recipe, finished_run.run
    card = out / "export-adapter/README.md"
    assert adapt("export", out, "--adapter-only").exit_code == 0
    assert "| target | adapted |" in card.read_text(), "the scored adapter"
    assert adapt("decoder", recipe, "-o", out, "-s", "decoder.steps=1").exit_code == 0
    assert adapt("export", out, "--adapter-only").exit_code == 0
    assert "has not been scored" in card.read_text(), "the scores are of another adapter"
    assert "\n  steps: 1\n" in card.read_text(), "the settings are those of this adapter"


def test_another_normaliser_redoes_every_stage_that_normalises_where_the_text_stays_the_same(fused_run):
    report = fused_run.run / "report.html"
    before = report.stat().st_mtime_ns
    other = adapt("run", fused_run.recipe, "-o", fused_run.run, *FUSED, "-s", "data.normaliser=none")
    assert other.exit_code == 0, other.output
    assert report.stat().st_mtime_ns != before, "the report is written again"
    lines = other.stderr.splitlines()
    redone = [line.split()[0] for line, why in itertools.pairwise(lines) if "data.normaliser changed" in why]
    assert set(redone) == {"text", "prompt", "decoder", "lm", "transcribe", "score"}, other.stderr


def test_a_recipe_without_recordings_ends_in_an_adapter(recipe, tmp_path):
    none = overrides(*(f"data.{key}=" for key in ("test", "source_test", "source_replay", "source_dev")))
    options = ("-o", tmp_path / "run", *none, "-s", "decoder.pseudo_audio=soft-prompt")
    refused = adapt("run", recipe, *options)
    assert refused.exit_code == 1 and "prompt.init: 'audio' needs audio embeddings of real audio" in refused.stderr, (
        refused.output
    )
    assert "name data.source_replay in the recipe, or set prompt.init to text" in refused.stderr, "the way out"
    done = adapt("run", recipe, *options, "-s", "prompt.init=text")
    assert done.exit_code == 0, f"the way out works: {done.output}"
    nothing, use = done.stdout.splitlines()
    assert nothing.startswith("Nothing is scored")
    assert f"--adapter {tmp_path / 'run/adapter'} " in use, "how to use the adapter is printed"
    as_json = adapt("run", recipe, *options, "-s", "prompt.init=text", "--json")
    assert as_json.stdout == "{}\n", "--json prints an empty object"


@pytest.mark.parametrize(
    ("long", "code", "message"),
    [
        ([0], 0, ""),
        ([2], 0, "source.jsonl: 1 of 2 recordings left out, longer than the 30 s that the base takes"),
        ([1, 2], 1, "every recording is longer than the 30 s that the base takes; cut them"),
    ],
)
def test_replay_leaves_out_what_is_longer_than_the_base_takes(recipe, tmp_path, long, code, message):
    for name in long:  # source.jsonl names 1.wav and 2.wav
        soundfile.write(recipe / f"{name}.wav", np.zeros(31 * 16_000), 16_000)
    result = adapt("decoder", recipe, "-o", tmp_path / "run")
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert ("left out" in result.stderr) == ("left out" in message)


def test_precision_reaches_both_stages(recipe, tmp_path):
    written = []
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        assert adapt("decoder", recipe, "-o", out, "-s", f"precision={precision}").exit_code == 0
        files = ("prompt/soft_prompt.safetensors", "adapter/adapter_model.safetensors")
        written.append([(out / file).read_bytes() for file in files])
    (prompt, adapter), (other_prompt, other_adapter) = written
    assert prompt != other_prompt, "the soft prompt is learned in the precision"
    assert adapter != other_adapter, "the decoder is tuned in the precision"


@pytest.mark.parametrize("annotated", [True, False], ids=["entities annotated", "entities found by the lexicon"])
@pytest.mark.parametrize(
    ("said", "verdict", "parts"),
    [
        (
            ["Please play absent name now", "stop the song"],
            "ok",
            ["0% of the words of dev.jsonl outside of mentions do not occur in the text"],
        ),
        (["please rewind absent name now", "rewind it"], "warn", ["60% of", "'rewind', 'it'", "varied"]),
    ],
)
def test_check_reports_words_that_the_text_lacks(recipe, annotated, said, verdict, parts):
    lines = {i: {"id": i, "audio": f"{i}.wav", "text": text} for i, text in enumerate(said)}
    if annotated:
        lines[0]["entities"] = [{"text": "absent name", "type": "track"}]
    (recipe / "dev.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines.values()))
    result = adapt("check", recipe, "-s", "data.dev=dev.jsonl")
    assert result.exit_code == 0, result.output
    line = next(line for line in result.stdout.splitlines() if line.split()[1] == "words")
    assert line.startswith(verdict)
    for part in parts:
        assert part in line
    assert verdict == "warn" or line.endswith(parts[0]), "no advice where nothing is wrong"


def test_check_reports_a_sample_of_a_parquet_file_and_its_errors_in_a_line(recipe):
    lines = (recipe / "text.txt").read_text().splitlines()
    pyarrow.parquet.write_table(pyarrow.table({"body": lines}), recipe / "text.parquet")
    named = overrides("data.text=text.parquet", "data.text_column=body")
    whole, of_text = adapt("check", recipe, *named), adapt("check", recipe)
    assert whole.stdout.splitlines()[:-1] == of_text.stdout.splitlines()[:-1], "but for the command that comes next"
    sampled = adapt("check", recipe, *named, *overrides("data.text_lines=50")).stdout
    assert f"50 of {len(lines)} lines, drawn at random" in sampled and "50 lines, " in sampled
    failed = adapt("check", recipe, *overrides("data.text=text.parquet"))
    assert failed.exit_code == 1
    (line,) = failed.stderr.splitlines()
    assert line.endswith("text.parquet: no column `text`; name one of body in data.text_column or --column")
