"""Stage `generator`: what the kind of pseudo audio `generate` learns before the decoder is tuned."""

from __future__ import annotations

import json

import pytest

from adapt.stages.context import Run
from adapt.train.slot_generator import learn_slot_generator

from ..cli.conftest import overrides
from ..session import adapt

SHORT = overrides("decoder.pseudo_audio=generate", "decoder.steps=2", "decoder.eval_every=1")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setitem(learn_slot_generator.__kwdefaults__, "steps", 2)


def test_the_generator_is_learned_once_and_the_decoder_with_it(recipe, tmp_path):
    done = adapt("decoder", recipe, "-o", tmp_path / "run", *SHORT)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "run/adapter/adapt.json").read_text())["pseudo_audio"] == "generate"
    stages = json.loads((tmp_path / "run/run.json").read_text())["stages"]
    assert "generator/generator.safetensors" in stages["decoder"]["inputs"]
    again = adapt("decoder", recipe, "-o", tmp_path / "run", *SHORT, *overrides("decoder.steps=3"))
    lines = {line.split()[0]: line for line in again.output.splitlines() if line.strip()}
    assert again.exit_code == 0 and "as before" in lines["generator"], again.output
    assert "decoder.steps changed: 2 -> 3" in again.output


def test_a_recording_without_slots_is_left_out_and_a_changed_manifest_is_learned_anew(recipe, tmp_path, monkeypatch):
    heard = Run.audio_embeddings

    def first_is_silent(*args) -> list:
        first, *others = heard(*args)
        return [first[:0], *others]

    monkeypatch.setattr(Run, "audio_embeddings", first_is_silent)
    source = recipe / "source.jsonl"
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    rows = [row | {"id": f"{row['id']}-{copy}"} for copy in range(3) for row in rows]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = adapt("decoder", recipe, "-o", tmp_path / "run", *SHORT)
    assert done.exit_code == 0, done.output
    source.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    again = adapt("decoder", recipe, "-o", tmp_path / "run", *SHORT)
    lines = {line.split()[0]: line for line in again.output.splitlines() if line.strip()}
    assert again.exit_code == 0 and "as before" not in lines["generator"], again.output


def test_too_little_source_audio_is_one_line(recipe, tmp_path):
    without = adapt("decoder", recipe, "-o", tmp_path / "a", *SHORT, *overrides("data.source_replay="))
    assert without.exit_code == 1 and "'generate' learns from data.source_replay, which is missing" in without.stderr
    source = recipe / "source.jsonl"
    source.write_text(source.read_text().splitlines()[0] + "\n")
    one = adapt("decoder", recipe, "-o", tmp_path / "b", *SHORT, *overrides("data.source_dev=", "data.source_test="))
    assert one.exit_code == 1 and "source.jsonl: the generator needs two recordings" in one.stderr, one.output
    for failed in (without, one):
        assert "Traceback" not in failed.output and failed.stderr.strip().count("\n") <= 1, failed.output
