"""Files of transcripts: resumed after a kill, left alone if they are something else, long recordings in segments."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from adapt.decode import recognise
from adapt.decode.recognise import Search, decoder_recogniser
from adapt.decode.transcribe import transcribe
from adapt.errors import DataError, ModelError
from adapt.model.features import read_audio, read_segments
from adapt.model.load import load_speech_llm
from adapt.text.clip import Clip
from adapt.text.manifest import Utterance


def test_a_killed_transcription_goes_on_to_the_same_lines(tiny, noise, tmp_path):
    utterances = []
    for i, samples in enumerate(noise):
        soundfile.write(tmp_path / f"{i}.wav", samples / abs(samples).max(), 16_000)
        utterances.append(Utterance(f"u{i}", "", Clip(tmp_path / f"{i}.wav")))
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    transcribe(tiny, utterances, whole, batch_size=1, max_new_tokens=8)
    lines = whole.read_text().splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in lines] == ["u0", "u1", "u2"]
    killed.write_text(lines[0] + lines[1][:9])
    transcribe(tiny, utterances, killed, batch_size=1, max_new_tokens=8)
    assert killed.read_text() == whole.read_text()


def test_recordings_that_do_not_fit_the_memory_together_are_transcribed_by_halves(tiny, noise, tmp_path, monkeypatch):
    for i, samples in enumerate(noise):
        soundfile.write(tmp_path / f"{i}.wav", samples, 16_000)
    utterances = [Utterance(str(i), "", Clip(tmp_path / f"{i}.wav")) for i in range(len(noise))]
    transcribe(tiny, utterances, tmp_path / "alone.jsonl", batch_size=1, max_new_tokens=8)
    room, plain = 1, recognise.generate

    def little_room(speech_llm, prompts, *others):
        if len(prompts) > room:
            raise torch.OutOfMemoryError
        return plain(speech_llm, prompts, *others)

    monkeypatch.setattr(recognise, "generate", little_room)
    transcribe(tiny, utterances, tmp_path / "halves.jsonl", max_new_tokens=8)
    assert (tmp_path / "halves.jsonl").read_text() == (tmp_path / "alone.jsonl").read_text()
    room = 0
    with pytest.raises(ModelError, match="does not fit the memory of the GPU; lower num_beams"):
        transcribe(tiny, utterances, tmp_path / "none.jsonl", max_new_tokens=8)


@pytest.mark.parametrize(
    "there",
    [
        b"a line\nand one more",
        b'{"id": "u0", "text": "play", "audio": "0.wav"}\n{"id": "u1", "te',
        b'{"text": "play"}\n',
        b"\xff\xfe\n",
        b'{"id": "u0", "text": "play"}\n{"key": 1}',
    ],
)
def test_a_file_that_holds_no_transcripts_is_an_error_and_stays_as_it_is(tiny, tmp_path, there):
    out = tmp_path / "notes.jsonl"
    out.write_bytes(there)
    with pytest.raises(DataError, match="other contents than transcripts"):
        transcribe(tiny, [], out)
    assert out.read_bytes() == there


def test_a_line_separator_within_a_text_does_not_end_the_line(tiny, tmp_path):
    out = tmp_path / "hyps.jsonl"
    out.write_text('{"id": "one\u2028two", "text": "play\u2028it"}\n', encoding="utf-8")
    transcribe(tiny, [Utterance("one\u2028two", "", Clip(Path("none.wav")))], out)


def test_every_unreadable_file_is_named_before_the_first_is_transcribed(tiny, noise, tmp_path):
    (tmp_path / "text.wav").write_text("not audio")
    soundfile.write(tmp_path / "good.wav", noise[0] / 10, 16_000)
    files = [tmp_path / name for name in ("text.wav", "good.wav", "absent.wav")]
    utterances = [Utterance(path.stem, "", Clip(path)) for path in files]
    with pytest.raises(DataError) as caught:
        transcribe(tiny, utterances, tmp_path / "out.jsonl")
    assert [problem.split(": ")[1].split(";")[0] for problem in caught.value.problems] == [
        "not readable as audio",
        "no such file",
    ]
    assert not (tmp_path / "out.jsonl").exists()


@pytest.fixture
def long(tmp_path) -> tuple[np.ndarray, np.ndarray]:
    """The samples of `long.wav`, five words with half a second of silence behind each, and where each silence lies.

    `short.wav` beside it holds the last word.
    """
    rng = np.random.default_rng(1)
    words = [rng.standard_normal(n) / 10 for n in (30_000, 21_000, 22_000, 27_000, 9_000)]
    pause = np.zeros(8_000)
    samples = np.concatenate([part for word in words for part in (word, pause)]).astype(np.float32)
    pauses = np.cumsum([[len(word), 8_000] for word in words]).reshape(-1, 2)  # where each begins and ends
    soundfile.write(tmp_path / "long.wav", samples, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", words[4], 16_000, subtype="FLOAT")
    return samples, pauses


def test_long_recordings_are_cut_where_it_is_quiet(long, tmp_path):
    samples, pauses = long
    segments = list(read_segments(tmp_path / "long.wav", 5.0))
    assert np.array_equal(np.concatenate(segments), samples), "no sample is lost"
    assert len(segments) > 2 and max(map(len, segments)) <= 80_000, "no segment is longer than 5 seconds"
    for cut in np.cumsum([len(segment) for segment in segments])[:-1]:
        assert any(begin <= cut <= end for begin, end in pauses), "each cut is in a pause"


@pytest.mark.parametrize("decoder", ["llm", "ctc"])
def test_the_transcript_of_a_long_recording_joins_those_of_its_segments(tiny, long, tmp_path, monkeypatch, decoder):
    monkeypatch.setattr(tiny, "max_seconds", 5.0)

    def transcripts(names: list[str], batch_size: int) -> dict[str, str]:
        utterances = [Utterance(name, "", Clip(tmp_path / f"{name}.wav")) for name in names]
        out = tmp_path / f"{names[0]}.jsonl"
        transcribe(tiny, utterances, out, decoder=decoder, batch_size=batch_size, max_new_tokens=8)
        return {row["id"]: row["text"] for row in map(json.loads, out.read_text().splitlines())}

    together = transcripts(["long", "short"], batch_size=2)
    assert set(together) == {"long", "short"}
    segments = list(read_segments(tmp_path / "long.wav", 5.0))
    for i, segment in enumerate(segments):
        soundfile.write(tmp_path / f"{i}.wav", segment, 16_000, subtype="FLOAT")
    names = [str(i) for i in range(len(segments))]
    alone = transcripts(names, batch_size=1)
    assert together["long"] == " ".join(filter(None, (alone[name] for name in names)))


@pytest.mark.parametrize("search", [Search(1, 8, 0.0), Search(2, 8, 0.1, nbest=2)])
def test_where_ctc_hears_nothing_the_decoder_writes_nothing(search):
    recognise = decoder_recogniser(load_speech_llm("tiny", "cpu"), search)
    speech = read_audio(Path(__file__).parents[2] / "recipes/music/audio/test/music-test-002.ogg")
    silence, short = np.zeros(32_000, np.float32), np.zeros(80, np.float32)
    first, second, third = recognise([silence, speech, short], [None] * 3)
    assert first["text"] == third["text"] == "" and first.get("nbest", []) == []
    (alone,) = recognise([speech], [None])
    assert second["text"] == alone["text"] != ""
