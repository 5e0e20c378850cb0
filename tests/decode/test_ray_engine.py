"""Transcription by the actors of a Ray cluster of two processes on this machine."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from adapt.decode.batches import AudioBatch
from adapt.decode.ray_engine import on_ray
from adapt.model.features import read_audio

from ..session import adapt, lora

MUSIC = Path(__file__).parents[2] / "recipes/music"


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two processes, and as many threads here as in each of two actors: scores depend on their number."""
    ray, threads = pytest.importorskip("ray"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS", raising=False)
        ray.init(address="local", num_cpus=2, object_store_memory=100_000_000, logging_level="ERROR")
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    ray.shutdown()


@pytest.fixture
def manifest(tmp_path) -> Path:
    """Six requests, half of them of the domain `music`, and one that the base does not take at once."""
    rows = [json.loads(line) for line in (MUSIC / "test.jsonl").read_text(encoding="utf-8").splitlines()[:12]]
    samples = [read_audio(MUSIC / row["audio"]) for row in rows]
    for i, recording in enumerate([*samples[:6], np.concatenate(samples)]):
        soundfile.write(tmp_path / f"{i}.wav", recording, 16_000)
    domains = [{"domain": "music"} if i % 2 else {} for i in range(7)]
    lines = [json.dumps({"id": f"u{i}", "audio": f"{i}.wav"} | domain) + "\n" for i, domain in enumerate(domains)]
    (tmp_path / "calls.jsonl").write_text("".join(lines))
    return tmp_path / "calls.jsonl"


def test_actors_write_what_one_process_writes_and_go_on_after_an_error(cluster, manifest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lora("tiny", tmp_path / "music", 0, spread=0.02)
    options = ["transcribe", "calls.jsonl", "--base", "tiny", "--adapter", "music=music", "--num-beams", 2]
    options += ["--nbest", 2, "--batch-size", 2, "--device", "cpu", "--out"]
    single = adapt(*options, "local.jsonl")
    assert single.exit_code == 0, single.output
    lines = Path("local.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    order = [json.loads(line)["id"] for line in lines]
    assert len(order) == 7 and order[-1] == "u6" and json.loads(lines[-1])["segments"], "the long one is the last"

    broken = manifest.with_name(f"{order[4][1:]}.wav")
    good, samples = broken.read_bytes(), soundfile.read(broken)[0]
    soundfile.write(broken, np.full_like(samples, np.nan), 16_000, "FLOAT")
    shared = ["shared.jsonl", "--engine", "ray", "--workers", 2]
    stopped = adapt(*options, *shared)
    assert stopped.exit_code == 1 and "Traceback" not in stopped.output, stopped.output
    assert stopped.stderr.splitlines()[-1].startswith(f"{broken.name}: holds samples that are NaN"), stopped.stderr
    assert Path("shared.jsonl").read_text(encoding="utf-8") == "".join(lines[:3]), "the batches before the error"
    broken.write_bytes(good)
    done = adapt(*options, *shared)
    assert done.exit_code == 0 and "3 of 7 transcripts were there already" in done.stderr, done.output
    assert Path("shared.jsonl").read_bytes() == Path("local.jsonl").read_bytes()


def test_two_processes_work_and_one_that_dies_is_replaced(cluster, tmp_path):
    class Busy:
        def rows(self, batch: AudioBatch) -> list[dict]:
            """The process that has the batch. It waits for a second one, and dies at the first sight of batch 5."""
            (tmp_path / f"{os.getpid()}.pid").touch()
            until = time.monotonic() + 60
            while len(list(tmp_path.glob("*.pid"))) < 2:
                assert time.monotonic() < until, "no second process"
                time.sleep(0.01)
            if batch.seconds == 5 and not (tmp_path / "dead").exists():
                (tmp_path / "dead").touch()
                os._exit(1)
            return [{"seconds": batch.seconds, "process": os.getpid()}]

    told = []
    rows = list(on_ray(Busy, 2, "cpu")([AudioBatch((), seconds) for seconds in range(8)], told.append))
    assert [row["seconds"] for (row,) in rows] == told == list(range(8))
    assert len({row["process"] for (row,) in rows}) >= 2 and (tmp_path / "dead").exists()


def test_without_ray_one_line_says_what_to_install(recipe, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    wrong = adapt("transcribe", recipe / "0.wav", "--base", tiny.name, "--engine", "ray")
    assert wrong.exit_code == 1, wrong.output
    assert wrong.stderr == "--engine ray: Ray cannot be imported; pip install 'adapt-asr[ray]'\n"
