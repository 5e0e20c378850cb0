from __future__ import annotations

import json
import os

import numpy as np
import pytest
import soundfile

from adapt.errors import DataError
from adapt.text.corpus import (
    Entity,
    Utterance,
    durations,
    prepare,
    read_hypotheses,
    read_manifest,
    read_text,
    require_audio,
)
from adapt.text.normalise import basic
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
    wav = tmp_path / "a.wav"
    assert read_manifest(path) == [
        Utterance("1", "Play Abba", wav, (Entity("Abba", "artist"),)),
        Utterance("4", "call ann", wav, phrases=("Ann", "Bob")),
        Utterance("2", "caf\u00e9", wav, None),
        Utterance("a", "stop", wav, ()),
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
        assert utterance == Utterance("Beyonc\xe9", "\xe9", tmp_path / name, voice="\xe9")
        assert durations([utterance]) == {"Beyonc\xe9": 0.05}


def test_a_part_of_a_file_is_an_error_where_its_audio_is_needed(tmp_path):
    (tmp_path / "long.wav").touch()
    row = {"audio_filepath": "long.wav", "offset": 3.5, "duration": 1.0, "text": "a"}
    path = write(tmp_path / "nemo.jsonl", row)
    assert [u.text for u in read_manifest(path, need_audio=False, whole_files=False)] == ["a"]
    for read in (read_manifest, lambda path: read_speech(path, str)):
        with pytest.raises(DataError, match=r"nemo.jsonl:1: `offset` is 3\.5"):
            read(path)
    assert read_manifest(write(path, row | {"offset": 0.0}))


def test_every_file_that_is_no_audio_is_named(tmp_path):
    names = ["a.raw", "b.wav", os.fsdecode(b"caf\xe9.wav"), "gone.wav"]
    for name in names[:3]:
        (tmp_path / name).write_bytes(b"no audio")
    with pytest.raises(DataError) as error:
        durations([Utterance(name, "", tmp_path / name) for name in names])
    problems = [problem.partition("; ")[0].removeprefix(f"{tmp_path}/") for problem in error.value.problems]
    assert problems[:2] == ["a.raw: not readable as audio", "b.wav: not readable as audio"]
    assert problems[2:] == ["caf\ufffd.wav: not readable as audio", "gone.wav: no such file"]


def test_empty_and_unreadable_files_are_errors(tmp_path):
    empty, latin = tmp_path / "empty", tmp_path / "latin"
    empty.write_text("\n \n")
    latin.write_bytes("fine\nalso\n".encode("utf-16"))
    with pytest.raises(DataError) as caught:
        read_text(latin)
    assert caught.value.problems == (f"{latin}: not UTF-8 text; name a text file, or save it as UTF-8",)
    latin.write_bytes(b"fine\ncaf\xe9\nfine\n\xff\n")
    with pytest.raises(DataError, match="holds no utterances"):
        read_manifest(empty)
    with pytest.raises(DataError, match="holds no text"):
        read_text(empty)
    with pytest.raises(DataError, match="no such file"):
        read_text(tmp_path / "gone")
    with pytest.raises(DataError) as error:
        read_text(latin)
    assert [p.split(": ")[0] for p in error.value.problems] == [f"{latin}:2", f"{latin}:4"]


def test_prepare_drops_duplicates_and_leaks_and_splits_the_rest():
    lines = [f"Line {i}" for i in range(20)] + ["line 3!", "LINE 4", "?", "Secret one", "secret, one"]
    corpus = prepare(lines, basic, ["SECRET one."], dev_lines=5, seed=3)
    assert (len(corpus.train), len(corpus.dev)) == (15, 5)
    assert sorted(corpus.train + corpus.dev) == sorted(f"line {i}" for i in range(20))
    assert (corpus.duplicates, corpus.leaks) == (2, ("secret one",))
    assert corpus == prepare(lines, basic, ["SECRET one."], dev_lines=5, seed=3)
    assert corpus.dev != prepare(lines, basic, [], dev_lines=5, seed=4).dev
    with pytest.raises(DataError, match="20 lines are left"):
        prepare(lines, basic, ["secret one"], dev_lines=11, seed=3)


def test_hypotheses_of_a_killed_run_are_read_without_the_cut_line(tmp_path):
    path = write(tmp_path / "h.jsonl", {"id": "1", "text": "a"}, {"id": "2", "text": ""})
    whole = path.read_bytes()
    for cut in (b'{"id": "3", "te', b'{"id": "3", "text": "\xc3'):
        path.write_bytes(whole + cut)
        assert read_hypotheses(path) == {"1": "a", "2": ""}
        path.write_bytes(whole + b'{"id": 3, "text": "c"}')
        assert read_hypotheses(path) == {"1": "a", "2": "", "3": "c"}  # ids may be numbers, as in a manifest
        path.write_bytes(whole + cut + b"\n" + whole)
        with pytest.raises(DataError) as error:
            read_hypotheses(path)
        assert [p.split(": ")[0] for p in error.value.problems] == [f"{path}:{n}" for n in (3, 4, 5)]
