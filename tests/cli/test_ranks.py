"""`adapt transcribe` by several processes of a launcher."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

from ..session import adapt

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "adapt"]


def launched(*words: object) -> subprocess.CompletedProcess:
    """The command in two processes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*LAUNCH, *map(str, words)], env=environment, capture_output=True, text=True)


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


def test_several_processes_need_a_file(recipe, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    wrong = adapt("transcribe", recipe / "test.jsonl")
    assert wrong.exit_code == 1 and "give --out, the file that they write together" in wrong.stderr, wrong.output
