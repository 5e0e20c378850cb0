"""Files of transcripts: resumed after a kill, left alone if they are something else, long recordings in segments."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from adapt.decode.transcribe import transcribe
from adapt.errors import DataError
from adapt.model.features import read_segments
from adapt.text.corpus import Utterance


def test_a_killed_run_goes_on_to_the_same_lines(tiny, noise, tmp_path):
    utterances = []
    for i, samples in enumerate(noise):
        soundfile.write(tmp_path / f"{i}.wav", samples / abs(samples).max(), 16_000)
        utterances.append(Utterance(f"u{i}", "", tmp_path / f"{i}.wav", None))
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    transcribe(tiny, utterances, whole, batch_size=1, max_new_tokens=8)
    lines = whole.read_text().splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in lines] == ["u0", "u1", "u2"]
    killed.write_text(lines[0] + lines[1][:9])
    transcribe(tiny, utterances, killed, batch_size=1, max_new_tokens=8)
    assert killed.read_text() == whole.read_text()


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
def test_a_file_of_other_things_is_left_as_it_is(tiny, tmp_path, there):
    out = tmp_path / "notes.jsonl"
    out.write_bytes(there)
    with pytest.raises(DataError, match="other contents than transcripts"):
        transcribe(tiny, [], out)
    assert out.read_bytes() == there


def test_only_a_newline_ends_a_line(tiny, tmp_path):
    out = tmp_path / "hyps.jsonl"
    out.write_text('{"id": "one\u2028two", "text": "play\u2028it"}\n', encoding="utf-8")
    transcribe(tiny, [Utterance("one\u2028two", "", Path("none.wav"))], out)


def test_every_unreadable_file_is_named_before_the_first_is_transcribed(tiny, noise, tmp_path):
    (tmp_path / "text.wav").write_text("not audio")
    soundfile.write(tmp_path / "good.wav", noise[0] / 10, 16_000)
    files = [tmp_path / name for name in ("text.wav", "good.wav", "absent.wav")]
    utterances = [Utterance(path.stem, "", path, None) for path in files]
    with pytest.raises(DataError) as caught:
        transcribe(tiny, utterances, tmp_path / "out.jsonl")
    assert [problem.split(": ")[1].split(";")[0] for problem in caught.value.problems] == [
        "not readable as audio",
        "no such file",
    ]
    assert not (tmp_path / "out.jsonl").exists()


def test_long_recordings_are_cut_where_it_is_quiet_and_stitched(tiny, tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    words = [rng.standard_normal(n) / 10 for n in (30_000, 21_000, 22_000, 27_000, 9_000)]
    pause = np.zeros(8_000)
    samples = np.concatenate([part for word in words for part in (word, pause)]).astype(np.float32)
    pauses = np.cumsum([[len(word), 8_000] for word in words]).reshape(-1, 2)  # where each begins and ends
    soundfile.write(tmp_path / "long.wav", samples, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", words[4], 16_000, subtype="FLOAT")
    segments = list(read_segments(tmp_path / "long.wav", 5.0))
    assert np.array_equal(np.concatenate(segments), samples)
    assert len(segments) > 2 and max(map(len, segments)) <= 80_000
    for cut in np.cumsum([len(segment) for segment in segments])[:-1]:
        assert any(begin <= cut <= end for begin, end in pauses)

    monkeypatch.setattr(tiny, "max_seconds", 5.0)
    utterances = [Utterance(name, "", tmp_path / f"{name}.wav", None) for name in ("long", "short")]
    for decoder in ("llm", "ctc"):
        out = tmp_path / f"{decoder}.jsonl"
        transcribe(tiny, utterances, out, decoder=decoder, batch_size=2, max_new_tokens=8)
        lines = {row["id"]: row for row in map(json.loads, out.read_text().splitlines())}
        alone = tmp_path / f"{decoder}-alone.jsonl"
        parts = []
        for i, segment in enumerate(segments):
            soundfile.write(tmp_path / f"{i}.wav", segment, 16_000, subtype="FLOAT")
            parts.append(Utterance(str(i), "", tmp_path / f"{i}.wav", None))
        transcribe(tiny, parts, alone, decoder=decoder, batch_size=1, max_new_tokens=8)
        texts = {row["id"]: row["text"] for row in map(json.loads, alone.read_text().splitlines())}
        assert lines["long"]["text"] == " ".join(filter(None, (texts[part.id] for part in parts)))
        assert set(lines) == {"long", "short"}
