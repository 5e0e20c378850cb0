"""Runs that are killed again and again end in the same weights, hypotheses and scores as one that was left alone."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLS = 100
COMPARED = ("adapter/*.safetensors", "prompt/*.safetensors", "lm/*.arpa", "hyps/*.jsonl", "scores/*", "text/*.txt")


def start(recipe: Path, out: Path) -> subprocess.Popen:
    keys = ["fusion.lm=0.1", "fusion.ilm=0.1", "fusion.boost=0.1"]
    command = [sys.executable, "-m", "adapt", "run", recipe, "-o", out, *(part for key in keys for part in ("-s", key))]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for pattern in COMPARED for path in sorted(out.glob(pattern))}


@pytest.mark.slow
def test_a_hundred_kills_change_nothing(recipe, tmp_path):
    whole = start(recipe, tmp_path / "whole")
    started = time.perf_counter()
    assert whole.communicate() and whole.returncode == 0
    seconds, expected = time.perf_counter() - started, contents(tmp_path / "whole")
    assert len(expected) > 15
    rng, kills, runs = random.Random(1), 0, 0
    while kills < KILLS:
        out = tmp_path / f"killed-{runs}"
        runs += 1
        while True:
            process = start(recipe, out)
            try:
                _, messages = process.communicate(timeout=rng.uniform(0.3, 1.0) * seconds if kills < KILLS else None)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
                continue
            assert process.returncode == 0, messages.decode()
            break
        assert contents(out) == expected, f"run {runs}, after {kills} kills"
