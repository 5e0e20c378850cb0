from __future__ import annotations

import json
import os
import sys

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import soundfile

from adapt.errors import DataError
from adapt.model.features import read_audio, read_segments, resampled
from adapt.text.clip import Clip
from adapt.text.manifest import Entity, Utterance, durations, read_manifest, require_audio
from adapt.text.transcripts import read_hypothesis_texts, read_references
from adapt.train.speech import read_speech


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_a_manifest_may_mix_dialects(tmp_path):
    (tmp_path / "a.wav").touch()
    path = write(
        tmp_path / "m.jsonl",
        {"id": "1", "audio": "a.wav", "text": "Play Abba", "entities": [{"text": "Abba", "type": "artist"}]},
        {"id": "4", "audio": "a.wav", "text": "call ann", "phrases": ["Ann", "Bob"]},
        {"key": "2", "source": "a.wav", "target": "cafe\u0301"},
        "",
        {"audio_filepath": "a.wav", "text": "stop", "duration": 1.5, "entities": []},
    )
    wav = Clip(tmp_path / "a.wav")
    assert read_manifest(path) == [
        Utterance("1", "Play Abba", wav, (Entity("Abba", "artist"),)),
        Utterance("4", "call ann", wav, phrases=("Ann", "Bob")),
        Utterance("2", "caf\u00e9", wav, None),
        Utterance("a", "stop", Clip(wav.path, seconds=1.5), ()),
    ]


def test_manifest_reports_every_problem_with_its_line(tmp_path):
    path = write(
        tmp_path / "m.jsonl",
        {"id": "1", "audio": "gone.wav", "txt": "hello"},
        '{"id": "2"',
        {"id": "3", "text": "x", "entities": ["Abba"]},
        {"id": "4", "text": 7},
        {"id": "5", "text": ""},
        {"id": "5", "text": "again"},
    )
    with pytest.raises(DataError) as error:
        read_manifest(path, need_audio=False)
    lines = [problem.removeprefix(f"{path}:") for problem in error.value.problems]
    assert [line[0] for line in lines] == ["1", "2", "3", "4", "6"]
    assert "missing key `text`; did you mean it by `txt`?" in lines[0]
    assert "already on line 5" in lines[4]

    with pytest.raises(DataError) as error:
        read_manifest(path)
    assert sum("missing key `audio`" in problem for problem in error.value.problems) == 4
    assert sum("gone.wav" in problem for problem in error.value.problems) == 1


def test_audio_that_is_required_later_has_the_same_errors(tmp_path):
    (tmp_path / "a.wav").touch()
    path = write(
        tmp_path / "m.jsonl",
        {"id": "1", "audio": "a.wav", "text": "x"},
        {"id": "2", "audio": "gone.wav", "text": "x"},
        {"id": "3", "adio": "a.wav", "text": "x"},
        {"key": "4", "target": "x"},
        {"id": "5", "text": "x"},
    )
    utterances = read_manifest(path, need_audio=False)
    assert [u.place for u in utterances] == [f"{path}:{n}" for n in range(1, 6)]
    problems = []
    for check in (lambda: require_audio(utterances), lambda: read_manifest(path)):
        with pytest.raises(DataError) as error:
            check()
        problems.append(error.value.problems)
    assert problems[0] == problems[1]
    assert problems[0] == (
        f"{path}:2: no audio file '{tmp_path / 'gone.wav'}'; paths are relative to the manifest's folder",
        f"{path}:3: missing key `audio`; did you mean it by `adio`?",
        f"{path}:4: missing key `source`; add it",
        f"{path}:5: missing key `audio`; add it",
    )
    assert require_audio(iter(utterances[:1])) == utterances[:1]
    with pytest.raises(DataError, match=r"^utterance '6': missing key `audio`; add it$"):
        require_audio([Utterance("6", "x")])


def test_the_place_of_an_utterance_does_not_count_in_comparisons(tmp_path):
    (utterance,) = read_manifest(write(tmp_path / "m.jsonl", {"id": "1", "text": "x"}), need_audio=False)
    assert utterance == Utterance("1", "x") and hash(utterance) == hash(Utterance("1", "x"))
    assert repr(utterance) == repr(Utterance("1", "x"))


def test_an_audio_path_that_is_no_text_is_one_problem(tmp_path):
    path = write(tmp_path / "m.jsonl", {"id": "1", "audio": 7, "text": "x"})
    for need_audio in (True, False):
        with pytest.raises(DataError) as error:
            read_manifest(path, need_audio=need_audio)
        assert error.value.problems == (f"{path}:1: `audio` is 7; write a text in quotes",)


def test_decomposed_file_names_are_found_and_match_composed_ones(tmp_path):
    name = "Beyonce\u0301.wav"  # as macOS writes it
    soundfile.write(tmp_path / name, np.zeros(800), 16_000)
    raw = tmp_path / "raw.jsonl"
    raw.write_text(f'{{"audio_filepath": "{name}", "text": "e\u0301", "speaker": "e\u0301"}}\n', encoding="utf-8")
    for path in (
        raw,
        write(tmp_path / "escaped.jsonl", {"audio_filepath": name, "text": "e\u0301", "speaker": "\xe9"}),
    ):
        (utterance,) = read_manifest(path)
        assert utterance == Utterance("Beyonc\xe9", "\xe9", Clip(tmp_path / name), voice="\xe9")
        assert durations([utterance]) == {"Beyonc\xe9": 0.05}


def test_parts_and_channels_of_a_file_are_what_is_read(tmp_path):
    left, right = np.random.default_rng(1).uniform(-0.5, 0.5, (2, 4 * 8_000))
    soundfile.write(tmp_path / "call.wav", np.stack([left, right], axis=1), 8_000, subtype="FLOAT")
    row = {"audio_filepath": "call.wav", "text": "a"}
    parts = [
        {"offset": 0, "duration": 2.0},
        {"offset": 3.5, "duration": 9, "channel": 1},  # to the end
        {"offset": 0.5, "channel": 0},
        {"duration": None, "offset": None},
    ]
    path = write(tmp_path / "nemo.jsonl", *(row | part for part in parts))
    with pytest.raises(DataError, match=r"nemo.jsonl:4: id 'call-0' is already on line 1"):
        read_manifest(path)
    path = write(path, *(row | part for part in parts[:3]), row | parts[3] | {"id": "whole"})
    utterances = read_manifest(path)
    assert [u.id for u in utterances] == ["call-0", "call-3.5-1", "call-0.5-0", "whole"]
    mix = (left + right) / 2
    expected = [mix[:16_000], right[28_000:], left[4_000:], mix]
    assert list(durations(utterances).values()) == [2.0, 0.5, 3.5, 4.0]
    assert [item.id for item in read_speech(path, str).items] == ["call-3.5-1", "call-0", "call-0.5-0", "whole"]
    for utterance, samples in zip(utterances, expected, strict=True):
        heard = resampled(samples.astype(np.float32), 8_000)
        assert np.abs(read_audio(utterance.audio) - heard).max() < 1e-6
        segments = list(read_segments(utterance.audio, 1.2))
        assert len(segments) == 1 if len(heard) < 16_000 else len(segments) > 1
        assert abs(sum(map(len, segments)) - len(heard)) <= len(segments)


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ({"offset": -1}, "`offset` is -1; write a time in seconds"),
        ({"duration": 0}, "`duration` is 0; write a time in seconds"),
        ({"duration": "2"}, "`duration` is '2'; write a time in seconds"),
        ({"channel": 0.5}, "`channel` is 0.5; write the number of a channel, from 0"),
        ({"offset": 9}, "lasts 1 s, but a part begins at 9 s; correct `offset`"),
        ({"channel": 2}, "has channels 0 to 1, but channel 2 is asked for; correct `channel`"),
    ],
)
def test_a_part_that_no_file_has_is_one_problem(part, problem, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((8_000, 2)), 8_000)
    path = write(tmp_path / "m.jsonl", {"audio": "a.wav", "id": "1", "text": "x"} | part)
    with pytest.raises(DataError) as error:
        durations(read_manifest(path))
    assert len(error.value.problems) == 1 and problem in str(error.value)


def test_channels_that_cancel_each_other_are_reported(tmp_path, caplog):
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, 8_000)
    for name, right in (("antiphase", -samples), ("one", 0 * samples), ("both", samples)):
        soundfile.write(tmp_path / f"{name}.wav", np.stack([samples, right], axis=1), 16_000)
        read_audio(tmp_path / f"{name}.wav")
        assert ("antiphase.wav: its channels cancel" in caplog.text) == (name == "antiphase")
        caplog.clear()


def test_ids_are_made_of_the_audio(tmp_path):
    rows = [{"audio_filepath": f"spk{n}/001.wav", "text": "x", "pred_text": "y", "speaker": n} for n in (1, 2)]
    path = write(tmp_path / "m.jsonl", *rows)
    utterances = read_manifest(path, need_audio=False)
    assert [(u.id, u.voice) for u in utterances] == [("spk1/001", "1"), ("spk2/001", "2")]
    assert read_hypothesis_texts(path) == {"spk1/001": "y", "spk2/001": "y"}
    path = write(tmp_path / "m.jsonl", {"id": "1", "audio": "a.wav"})
    assert read_manifest(path, need_audio=False, need_text=False)[0].text == ""


def test_every_file_that_is_no_audio_is_named(tmp_path):
    names = ["a.raw", "b.wav", os.fsdecode(b"caf\xe9.wav"), "gone.wav"]
    for name in names[:3]:
        (tmp_path / name).write_bytes(b"no audio")
    with pytest.raises(DataError) as error:
        durations([Utterance(name, "", Clip(tmp_path / name)) for name in names])
    problems = [problem.partition("; ")[0].removeprefix(f"{tmp_path}/") for problem in error.value.problems]
    assert problems[:2] == ["a.raw: not readable as audio", "b.wav: not readable as audio"]
    assert problems[2:] == ["caf\ufffd.wav: not readable as audio", "gone.wav: no such file"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"id": "1", "text": "\\ud800"}', "half of a pair of escapes"),
        ('{"id": "1", "audio": "' + "a" * 5_000 + '", "text": "x"}', "no audio file"),
    ],
    ids=["deep", "surrogate", "long name"],
)
def test_a_line_that_libraries_fail_at_is_one_problem(line, problem, tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError) as error:
        read_manifest(path)
    assert problem in str(error.value)


@pytest.mark.parametrize("rate", [1, 100_000_000])
def test_a_header_that_cannot_be_true_is_refused(rate, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(8_000), rate)
    with pytest.raises(DataError, match="its header claims"):
        durations([Utterance("a", "", Clip(tmp_path / "a.wav"))])
    with pytest.raises(DataError, match="its header claims"):
        read_audio(tmp_path / "a.wav")


def parquet(path, *rows):
    """The rows in a Parquet file, with nulls for the keys that a row lacks."""
    keys = dict.fromkeys(key for row in rows for key in row)
    datasets.Dataset.from_dict({key: [row.get(key) for row in rows] for key in keys}).to_parquet(path, batch_size=2)
    return path


def test_a_manifest_of_parquet_is_what_the_same_lines_of_json_are(tmp_path):
    (tmp_path / "a.wav").touch()
    artist, untyped = {"text": "Abba", "type": "artist"}, {"text": "Queen"}
    rows = [
        {"id": "1", "audio": "a.wav", "text": "Play Abba by Queen", "entities": [artist, untyped], "voice": "v"},
        {"id": "2", "audio": "a.wav", "text": "", "phrases": ["Ann", "Bob"], "offset": 1.5, "entities": []},
        {"key": "3", "source": "a.wav", "target": "cafe\u0301", "channel": 1, "lang": "fr"},
        {"audio_filepath": "a.wav", "text": "stop", "duration": 2.5, "domain": "bank", "speaker": 7},
    ]
    lines, table = write(tmp_path / "m.jsonl", *rows), parquet(tmp_path / "m.parquet", *rows)
    read = read_manifest(table)
    assert read == read_manifest(lines) and len(read) == len(rows)
    assert [u.place for u in read] == [f"{table}: row {n}" for n in (1, 2, 3, 4)]
    assert read_references(table) == read_references(lines)
    assert read_hypothesis_texts(table) == read_hypothesis_texts(lines) == {u.id: u.text for u in read}


def test_whole_numbers_that_pandas_wrote_are_whole_numbers(tmp_path):
    (tmp_path / "a.wav").touch()
    rows = [{"id": 1.0, "audio": "a.wav", "channel": 1.0, "text": "x"}, {"id": 2.0, "audio": "a.wav", "text": "x"}]
    first, second = read_manifest(parquet(tmp_path / "m.parquet", *rows))
    assert (first.id, second.id, first.audio.channel, second.audio.channel) == ("1", "2", 1, -1)


def test_bad_rows_of_parquet_have_the_problems_of_bad_lines(tmp_path):
    (tmp_path / "a.wav").touch()
    rows = [
        {"id": "1", "audio": "gone.wav", "text": "x"},
        {"id": "2", "adio": "a.wav", "text": "x"},
        {"id": "2", "audio": "a.wav", "offset": -1.5, "text": "x"},
        {"id": "2", "audio": "a.wav", "entities": ["Abba"], "phrases": "Abba"},
        {"id": "2", "audio": "a.wav", "text": "x"},
    ]
    lines, table = write(tmp_path / "m.jsonl", *rows), parquet(tmp_path / "m.parquet", *rows)
    problems = []
    for path in (lines, table):
        for check in (read_manifest, lambda path: require_audio(read_manifest(path, need_audio=False))):
            with pytest.raises(DataError) as error:
                check(path)
            problems.append(error.value.problems)
    on_lines = [problem.replace(f"{lines}:", f"{table}: row ") for problem in problems[0]]
    assert list(problems[2]) == [problem.replace("already on line", "already in row") for problem in on_lines]
    assert len(problems[0]) == 7 and [len(found) for found in problems[1::2]] == [5, 5]

    spoken = [{"id": "1", "audio": "gone.wav", "text": "x"}, {"id": "2", "adio": "a.wav", "text": "x"}]
    utterances = read_manifest(parquet(table, *spoken), need_audio=False)
    with pytest.raises(DataError) as error:
        require_audio(utterances)
    assert error.value.problems == (
        f"{table}: row 1: no audio file '{tmp_path / 'gone.wav'}'; paths are relative to the manifest's folder",
        f"{table}: row 2: missing key `audio`; did you mean it by `adio`?",
    )


def test_a_row_of_parquet_without_a_hypothesis_is_not_its_reference(tmp_path):
    rows = [{"id": "1", "text": "play it", "pred_text": "lay it"}, {"id": "2", "text": "stop", "pred_text": None}]
    lines, table = write(tmp_path / "m.jsonl", *rows), parquet(tmp_path / "m.parquet", *rows)
    for path, place in ((lines, f"{lines}:2"), (table, f"{table}: row 2")):
        with pytest.raises(DataError) as error:
            read_hypothesis_texts(path)
        assert error.value.problems == (f"{place}: `pred_text` is None; write a text in quotes",)
    with pytest.raises(DataError, match="the column `pred_text` holds bytes"):
        read_hypothesis_texts(parquet(table, {"id": "1", "text": "play it", "pred_text": b"lay it"}))


def test_a_parquet_file_that_is_no_manifest_is_one_problem(tmp_path, monkeypatch):
    path = tmp_path / "m.parquet"

    def problem_of() -> str:
        with pytest.raises(DataError) as error:
            read_manifest(path, need_audio=False)
        (problem,) = error.value.problems
        return problem.removeprefix(f"{path}: ")

    path.write_text("no table")
    assert problem_of().startswith("cannot be read as Parquet: ")
    datasets.Dataset.from_dict({"id": [], "text": []}).to_parquet(path)
    assert problem_of() == "holds no utterances; write a row for each"
    parquet(path, {"id": "1", "text": "a" * 1_000_000})
    assert problem_of().startswith("row 1: a row of 1,000,0")
    recording = {"bytes": b"RIFF", "path": "a.wav"}  # as data sets of the hub hold audio
    parquet(path, {"id": "1", "audio": recording, "text": "x"}, {"id": "2", "audio": recording, "text": "y"})
    assert problem_of() == "the column `audio` holds bytes; save each recording as a file, and write its path there"
    assert [u.text for u in read_references(path)] == ["x", "y"], "where the audio is not used"
    parquet(path, {"id": "1", "text": b"x"})
    assert problem_of() == "the column `text` holds bytes; write texts there"
    parquet(path, {"id": "1", "text": "x", "phrases": [b"Ann"]})
    assert problem_of() == "the column `phrases` holds bytes; write texts there"
    recorded_at = pyarrow.array([2**31 - 1], pyarrow.int32()).cast(pyarrow.date32())
    pyarrow.parquet.write_table(pyarrow.table({"id": ["1"], "text": ["x"], "recorded_at": recorded_at}), path)
    assert problem_of().startswith("cannot be read as Parquet: days=")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert problem_of() == "needs the package datasets; pip install 'adapt-asr[datasets]'"
