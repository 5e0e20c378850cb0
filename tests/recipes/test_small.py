"""The base `small` on its real parts, in the folder ADAPT_PARTS."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile

from adapt.model.features import SAMPLE_RATE, read_audio
from tests.session import adapt
from tests.test_kills import contents

WER = 0.3  # above what was measured, so that another machine passes
NATURAL = Path(__file__).resolve().parents[2] / "recipes/music/natural"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("ADAPT_PARTS" not in os.environ, reason="needs ADAPT_PARTS, a folder with the parts of small"),
]


@pytest.fixture(scope="module")
def sentences() -> list[tuple[Path, str]]:
    """Recordings of general sentences in natural voices, with their transcripts."""
    rows = [json.loads(line) for line in (NATURAL / "source.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(NATURAL / row["audio"], row["text"]) for row in rows[::10]]


def transcripts(*paths: Path) -> list[str]:
    done = adapt("transcribe", *paths, "--base", "small")
    assert done.exit_code == 0, done.output
    return [line.split("\t")[1] for line in done.stdout.splitlines()]


def test_general_sentences_in_natural_voices_are_recognised(sentences):
    paths, texts = zip(*sentences, strict=True)
    assert jiwer.wer(list(texts), transcripts(*paths)) < WER


def test_thirty_seconds_are_recognised_as_their_parts_are_and_silence_is_no_word(sentences, tmp_path):
    paths, texts = zip(*sentences[:8], strict=True)
    pause = np.zeros(SAMPLE_RATE // 2, dtype=np.float32)
    samples = np.concatenate([part for path in paths for part in (read_audio(path), pause)])
    assert len(samples) > 20 * SAMPLE_RATE
    soundfile.write(tmp_path / "long.wav", samples, SAMPLE_RATE)
    noise = 1e-3 * np.random.default_rng(1).standard_normal(5 * SAMPLE_RATE)
    soundfile.write(tmp_path / "silence.wav", noise, SAMPLE_RATE)
    long, silence = transcripts(tmp_path / "long.wav", tmp_path / "silence.wav")
    assert silence == ""
    assert jiwer.wer(" ".join(texts), long) < WER


def test_the_rows_of_a_study_share_the_frames_and_none_is_run_twice(tmp_path):
    recipe, parts = tmp_path / "recipes/small", Path(os.environ["ADAPT_PARTS"])
    shutil.copytree(NATURAL.parents[1] / "small", recipe, ignore=shutil.ignore_patterns("data"))
    shutil.copytree(NATURAL.parents[1] / "base", recipe.parent / "base", ignore=shutil.ignore_patterns("data"))
    (recipe / "data").mkdir()
    rows = [json.loads(line) for line in (NATURAL / "source.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps(row | {"audio": str(NATURAL / row["audio"])}) + "\n" for row in rows]
    for name, chosen in {"train": lines[:32], "dev": lines[32:34], "test": lines[34:36]}.items():
        (recipe / f"data/{name}.jsonl").write_text("".join(chosen), encoding="utf-8")
    (recipe / "data/spoken.txt").write_text("".join(row["text"] + "\n" for row in rows), encoding="utf-8")

    def study(*names: str) -> subprocess.CompletedProcess:
        command = [sys.executable, recipe / "studies.py", parts, tmp_path / "out", *names, "-s", "align.steps=2"]
        return subprocess.run(command, capture_output=True, text=True, check=True)

    def frames() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "out/frames").rglob("*.safetensors")}

    study("as in the recipe")
    computed = frames()
    both = study("as in the recipe", "LLM frozen")
    assert [line.split(" | ")[0] for line in both.stdout.splitlines()[2:]] == ["| as in the recipe", "| LLM frozen"]
    assert computed and frames() == computed
    again = study("as in the recipe", "LLM frozen")
    assert (again.stdout, again.stderr) == (both.stdout, "")


def test_a_run_that_is_killed_in_each_stage_ends_as_one_that_was_left_alone(tmp_path):
    keys: dict[str, object] = {"decoder.steps": 6, "decoder.eval_every": 3, "fusion.lm": 0.1}
    keys |= {"transcribe.names": "boost", "transcribe.sentences": 0}
    for key, name, count in (("test", "test", 12), ("source_test", "source", 8), ("source_dev", "dev", 4)):
        rows = [json.loads(line) for line in (NATURAL / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        lines = [json.dumps(row | {"audio": str(NATURAL / row["audio"])}) + "\n" for row in rows[:count]]
        manifest = tmp_path / f"{key}.jsonl"
        manifest.write_text("".join(lines), encoding="utf-8")
        keys[f"data.{key}"] = manifest
    keys["data.source_replay"] = keys["data.source_dev"]
    command = [sys.executable, "-m", "adapt", "run", NATURAL, "-o"]
    settings = [part for key, value in keys.items() for part in ("-s", f"{key}={value}")]

    def start(out: Path) -> subprocess.Popen:
        return subprocess.Popen([*command, out, *settings], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def seconds(out: Path) -> dict[str, float]:
        """Those of each stage that is done."""
        path = out / "run.json"
        return (
            {name: s["seconds"] for name, s in json.loads(path.read_text())["stages"].items()} if path.exists() else {}
        )

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _, messages = (process := start(whole)).communicate()
    assert process.returncode == 0, messages.decode()
    expected, stages = contents(whole), seconds(whole)
    within = []
    for number, (stage, length) in enumerate(stages.items()):
        process = start(killed)
        while len(seconds(killed)) < number and process.poll() is None:
            time.sleep(0.05)
        time.sleep(length / 2)
        process.kill()
        process.communicate()
        within += [stage] if len(seconds(killed)) == number else []
    assert len(within) > len(stages) / 2, within
    _, messages = (process := start(killed)).communicate()
    assert process.returncode == 0, messages.decode()
    assert contents(killed) == expected
