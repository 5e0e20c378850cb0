"""Commands that a launcher starts in several processes."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from adapt.errors import TrainingError
from adapt.model.adapter import WEIGHTS
from adapt.ranks import Ranks
from adapt.train import common
from adapt.train import fit as fit_module
from adapt.train import speech as speech_module
from adapt.train.slot_generator import learn_slot_generator
from adapt.train.speech import Speech, Spoken

from ..session import adapt, launched
from .conftest import overrides


def test_two_processes_write_what_one_writes_and_go_on_after_a_kill(recipe, tiny, tmp_path):
    manifest = recipe / "six.jsonl"
    rows = [{"id": f"{i}-{file}", "audio": f"{file}.wav"} for i in range(2) for file in (2, 0, 1)]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["transcribe", manifest, "--base", tiny.name, "--batch-size", 1, "--device", "cpu", "--out"]
    alone, shared = tmp_path / "alone.jsonl", tmp_path / "shared[1].jsonl"
    single = adapt(*options, alone)
    assert single.exit_code == 0, single.output
    done = launched(*options, shared)
    assert done.returncode == 0, done.stderr
    assert shared.read_bytes() == alone.read_bytes() and len(alone.read_text().splitlines()) == len(rows)
    assert [path.name for path in tmp_path.glob("shared*")] == [shared.name], "the parts are joined"

    first, *others = alone.read_text().splitlines(keepends=True)
    shutil.move(shared, tmp_path / "whole")
    shared.with_name(f"{shared.name}.7").write_text(others[1] + first[:9])  # of a call with more processes, killed
    again = adapt(*options, shared)
    assert again.exit_code == 0 and shared.read_bytes() == alone.read_bytes(), again.output


def test_two_processes_train_and_transcribe_as_one_does(recipe, tmp_path):
    settings = ("decoder.dropout=0", "decoder.pseudo_audio=mixed", "transcribe.batch_size=1", "precision=fp32")
    settings += ("prompt.length=auto",)
    options = ["run", recipe, "--device", "cpu", *overrides(*settings), "-o"]
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    single = adapt(*options, alone)
    assert single.exit_code == 0, single.output
    done = launched(*options, shared)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("adapted") == single.stdout.count("adapted"), "one process prints"
    for log in ("prompt/log.json", "decoder/log.json"):
        ours, theirs = (json.loads((run / log).read_text()) for run in (shared, alone))
        assert ours["best_step"] == theirs["best_step"]
        for row, expected in zip(ours["log"], theirs["log"], strict=True):
            assert row == pytest.approx(expected, abs=1e-5, rel=1e-5)
    for hyps in sorted((alone / "hyps").iterdir()):
        assert (shared / "hyps" / hyps.name).read_bytes() == hyps.read_bytes(), hyps.name
    again = adapt(*options, shared)
    assert again.exit_code == 0 and again.stderr.count("as before") == single.stderr.count(" s\n"), again.stderr


def test_two_processes_compare_as_one_does(recipe, tmp_path):
    settings = (
        "decoder.steps=2",
        "decoder.dropout=0",
        "transcribe.batch_size=1",
        "precision=fp32",
        "data.source_test=",
    )
    options = ["compare", recipe, "--method", "empty", "--seeds", 2, "--device", "cpu", *overrides(*settings), "-o"]
    single = adapt(*options, tmp_path / "alone")
    done = launched(*options, tmp_path / "shared")
    assert single.exit_code == done.returncode == 0, done.stderr
    ours, theirs = (json.loads((tmp_path / name / "table.json").read_text()) for name in ("shared", "alone"))
    assert [row["figures"] for row in ours["rows"]] == [row["figures"] for row in theirs["rows"]]


# Trains the generator of slots for four steps.
SHORT = """
from adapt.cli import main
from adapt.train.slot_generator import learn_slot_generator
learn_slot_generator.__kwdefaults__["steps"] = 4
main()
"""


def test_two_processes_learn_the_generator_that_one_learns(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(learn_slot_generator.__kwdefaults__, "steps", 4)
    settings = ("decoder.pseudo_audio=generate", "decoder.dropout=0", "precision=fp32")
    options = ["decoder", recipe, "--device", "cpu", *overrides(*settings), "-o"]
    single = adapt(*options, tmp_path / "alone")
    assert single.exit_code == 0, single.output
    done = launched(*options, tmp_path / "shared", program=SHORT)
    assert done.returncode == 0, done.stderr
    for log in ("generator/log.json", "decoder/log.json"):  # Adam makes much of rounding in the weights themselves
        ours, theirs = (json.loads((tmp_path / run / log).read_text())["log"] for run in ("shared", "alone"))
        for row, expected in zip(ours, theirs, strict=True):
            assert row == pytest.approx(expected, abs=1e-4, rel=1e-4)


# Prints how many of the weights in layers the first process holds. The logits of the base are computed in every step.
DIVIDED = """
from torch.distributed.tensor import DTensor
from adapt.cli import main
from adapt.model import load
from adapt.train import decoder
def shown(speech_llm, device):
    layers = [p for p in shard(speech_llm, device).model.parameters() if isinstance(p, DTensor)]
    print("HELD", sum(p.to_local().numel() for p in layers), sum(p.numel() for p in layers), flush=True)
    return speech_llm
shard, load.shard, decoder.CACHED_BYTES = load.shard, shown, 0
main()
"""


def test_two_processes_that_divide_the_base_train_as_one_that_holds_it(recipe, tmp_path):
    settings = ("decoder.dropout=0", "decoder.pseudo_audio=mixed", "precision=fp32", "prompt.batch_size=5")
    # In a batch, one process has the only recording that is replayed.
    settings += ("decoder.replay=0.25", "decoder.anchor=0.5", "decoder.activations=recomputed")
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    single = adapt("decoder", recipe, "--device", "cpu", *overrides(*settings), "-o", alone)
    assert single.exit_code == 0, single.output
    options = ["decoder", recipe, "--device", "shard", *overrides(*settings), "-o", shared]
    done = launched(*options, program=DIVIDED)
    assert done.returncode == 0, done.stderr
    held = [tuple(map(int, line.split()[1:])) for line in done.stdout.splitlines() if line.startswith("HELD")]
    assert len(held) == 2 and all(2 * own == whole > 10_000 for own, whole in held), "of two models, the first prints"
    for log in ("prompt/log.json", "decoder/log.json"):
        ours, theirs = (json.loads((run / log).read_text()) for run in (shared, alone))
        assert ours["best_step"] == theirs["best_step"]
        for row, expected in zip(ours["log"], theirs["log"], strict=True):
            assert row == pytest.approx(expected, abs=1e-5, rel=1e-5)
    ours, theirs = (load_file(run / "adapter" / WEIGHTS) for run in (shared, alone))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    run = adapt("run", recipe, "--device", "cpu", *overrides(*settings), "-o", shared)
    assert run.exit_code == 0 and run.stderr.count("as before") == 3, run.output


def test_a_base_is_divided_only_where_several_processes_train(recipe, tmp_path):
    for command in (["run", recipe], ["tune", recipe], ["compare", recipe], ["transcribe", recipe / "test.jsonl"]):
        wrong = adapt(*command, "--device", "shard")
        assert wrong.exit_code == 2 and "give --device spread" in wrong.stderr, wrong.output
    wrong = adapt("prompt", recipe, "--device", "shard", "-o", tmp_path / "run")
    assert wrong.exit_code == 1 and "but this process is alone; launch several" in wrong.stderr, wrong.output
    start = overrides("prompt.start=soft.safetensors")
    (recipe / "soft.safetensors").touch()
    wrong = adapt("prompt", recipe, "--device", "shard", "-o", tmp_path / "run", *start)
    assert wrong.exit_code == 1 and "one does the stage prompt alone" in wrong.stderr, wrong.output


def test_a_batch_that_processes_cannot_share_and_other_trainings_are_refused(recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(common, "launched", lambda: Ranks(0, 8))
    wrong = adapt("run", recipe, "-o", tmp_path / "run")
    assert "prompt.batch_size: 4, but 8 processes share a batch; give a larger one" in wrong.stderr, wrong.output
    monkeypatch.setattr(fit_module, "launched", lambda: Ranks(0, 2))
    with pytest.raises(TrainingError, match="project: paired audio is not learned from by several processes"):
        fit_module.fit(None, None, None, steps=1, groups=[], warmup=1, folder=tmp_path, save_every=1, label="project")


def test_several_processes_need_a_file_and_start_no_ray(recipe, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    wrong = adapt("transcribe", recipe / "test.jsonl")
    assert wrong.exit_code == 1 and "give --out, the file that they write together" in wrong.stderr, wrong.output
    wrong = adapt("transcribe", recipe / "test.jsonl", "--engine", "ray")
    assert wrong.exit_code == 2 and "started 2 processes, but Ray starts its own" in wrong.stderr, wrong.output


def test_batches_of_speech_that_processes_cannot_share_are_refused_before_the_training(monkeypatch):
    speech = Speech([Spoken(30.0, "a", None, "so", None, None)])
    monkeypatch.setattr(speech_module, "launched", lambda: Ranks(0, 8))
    with pytest.raises(TrainingError) as raised:
        speech_module.check_share(speech, {"encoder.batch_seconds": 400, "align.batch_seconds": 120})
    (problem,) = raised.value.problems
    assert problem == (
        "align.batch_seconds: 120: 8 processes cannot share batches with recordings of 30.0 s; "
        "give at least 240, or launch fewer"
    )
