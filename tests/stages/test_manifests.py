"""Manifests that are parsed once, and the files that they name."""

from __future__ import annotations

import pytest

from adapt.errors import DataError
from adapt.stages import manifests
from adapt.stages.manifests import Manifests

from .conftest import SAID


def test_transcripts_are_read_without_the_recordings(folder):
    (folder / "1.wav").unlink()
    assert [u.text for u in Manifests().utterances(folder / "test.jsonl")] == SAID


def test_each_missing_recording_is_named_whenever_recordings_are_asked_for(folder):
    (folder / "0.wav").unlink()
    (folder / "2.wav").unlink()
    read, path = Manifests(), folder / "test.jsonl"
    read.utterances(path)
    for ask in (read.spoken, read.spoken, read.seconds, read.files):
        with pytest.raises(DataError) as caught:
            ask(path)
        problems = [problem.split(";")[0] for problem in caught.value.problems]
        expected = [f"{path}:{i + 1}: no audio file '{folder / f'{i}.wav'}'" for i in (0, 2)]
        assert problems == expected, ask.__name__


def test_files_are_each_manifest_followed_by_its_recordings(folder):
    (folder / "dev.jsonl").write_text('{"id": "a", "audio": "2.wav", "text": ""}\n')
    dev, test = folder / "dev.jsonl", folder / "test.jsonl"
    expected = [dev, folder / "2.wav", test, *(folder / f"{i}.wav" for i in range(3))]
    assert Manifests().files(dev, None, test) == expected
    assert Manifests().files(None) == []


def test_a_manifest_is_parsed_once(folder, monkeypatch):
    read, path = Manifests(), folder / "test.jsonl"
    utterances = read.utterances(path)
    monkeypatch.setattr(manifests, "read_manifest", None)
    assert read.spoken(path) is utterances
    assert read.files(path)[0] == path
