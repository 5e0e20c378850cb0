"""The job of `adapt transcribe`, called from Python."""

from __future__ import annotations

import json
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile

from adapt.decode.job import TranscriptionJob, conflict, read_utterances, run_job
from adapt.decode.parts import DomainNgrams
from adapt.errors import DataError, RecipeError
from adapt.recipe.domain import Transcribe


@pytest.fixture
def recordings(noise, tmp_path) -> list[str]:
    for i, samples in enumerate(noise):
        soundfile.write(tmp_path / f"{i}.wav", samples / abs(samples).max(), 16_000)
    return [str(tmp_path / f"{i}.wav") for i in range(len(noise))]


def test_a_job_gives_its_transcripts_and_skips_those_that_are_in_its_file(tiny, recordings, tmp_path):
    alone = run_job(TranscriptionJob(recordings, base=tiny.name, num_beams=2))
    assert list(alone.texts) == recordings and alone.earlier == 0, "in the order of the files"
    job = TranscriptionJob(recordings, base=tiny.name, num_beams=2, out=tmp_path / "hyps.jsonl")
    assert run_job(job) == alone, "with a file of its own"
    again = run_job(job)
    assert again.texts == alone.texts and again.earlier == len(recordings), "the second time"


def test_a_manifest_of_parquet_is_transcribed_as_one_of_json_is(tiny, recordings, tmp_path):
    rows = [{"id": f"{i}-{n}", "audio": f"{i}.wav", "offset": n / 10} for i in range(2) for n in range(2)]
    lines, table = tmp_path / "calls.jsonl", tmp_path / "CALLS.PARQUET"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    datasets.Dataset.from_list(rows).to_parquet(table)
    jobs = [TranscriptionJob([str(path)], base=tiny.name, num_beams=1, device="cpu") for path in (lines, table)]
    expected, done = map(run_job, jobs)
    assert done == expected and list(done.texts) == [row["id"] for row in rows]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"decoder": "ctc", "adapters": {"default": Path("x")}}, "--adapter adapts"),
        ({"decoder": "ctc", "prompt": Path("x")}, "--prompt belongs to"),
        ({"prompt": Path("x"), "adapters": {"default": Path("x")}}, "comes with the prompt"),
        ({"decoder": "ctc", "nbest": 2}, "gives one hypothesis"),
        ({"decoder": "ctc", "ctc_weight": 0.0}, "gives one hypothesis"),
        ({"decoder": "first-pass", "ilm": 0.1}, "gives one hypothesis"),
        ({"ilm": 0.1, "adapters": {"a": Path("x"), "b": Path("y")}}, "several adapters"),
        ({"text": "text.txt", "decoder": "ctc"}, "--decoder ctc has no prompt"),
        ({"sentences": 2}, "give --text too"),
        ({"nbest": 5}, "give --num-beams 5"),
        ({"workers": 2}, "give --engine ray too"),
        ({"device": "shard"}, "only trains"),
        ({"engine": "ray", "device": "spread"}, "gives each worker its device"),
    ],
)
def test_options_that_exclude_each_other_are_an_error(options, problem):
    job = TranscriptionJob(["none.wav"], **options)
    assert problem in conflict(job)
    with pytest.raises(RecipeError, match=problem):
        run_job(job)


def test_sentences_are_for_a_base_that_transcribes(tiny, recordings):
    job = TranscriptionJob([str(recordings[0])], base=tiny.name, text="text.txt", device="cpu")
    with pytest.raises(DataError, match=r"--text: the encoder of .* does not transcribe, and reads no sentences"):
        run_job(job)


def test_every_missing_recording_is_named(recordings):
    with pytest.raises(DataError) as caught:
        run_job(TranscriptionJob(["a.wav", *recordings, "b.wav"]))
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["a.wav", "b.wav"]


def test_two_recordings_of_one_name_are_an_error(recordings):
    with pytest.raises(DataError, match="2 of the recordings have this name"):
        run_job(TranscriptionJob([recordings[0], *recordings]))


def test_defaults_are_those_of_the_recipe_and_of_the_parts():
    job = TranscriptionJob(["a.wav"])
    assert conflict(job) is None
    assert (job.num_beams, job.batch_size) == (Transcribe().num_beams, Transcribe().batch_size)
    assert job.lm_weight == DomainNgrams.start


def test_a_name_that_is_not_utf_8_can_be_written(recordings, tmp_path):
    latin = tmp_path / os.fsdecode(b"caf\xe9.wav")
    latin.write_bytes(Path(recordings[0]).read_bytes())
    (utterance,) = read_utterances([str(latin)])
    assert utterance.id == f"{tmp_path}/caf\ufffd.wav" and utterance.audio.path == latin


def test_nothing_is_written_where_nothing_is_to_be_heard(tiny, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(16_000), 16_000)
    soundfile.write(tmp_path / "click.wav", np.full(80, 0.5), 16_000)
    names = [str(tmp_path / name) for name in ("silence.wav", "click.wav")]
    for decoder in ("llm", "ctc"):
        done = run_job(TranscriptionJob(names, base=tiny.name, decoder=decoder, device="cpu"))
        assert list(done.texts.values()) == ["", ""]
