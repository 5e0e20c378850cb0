"""The music recipe alone: its general speech, its two kinds of voices, and its lists of names."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from runpy import run_path

import pytest
import soundfile
from click.testing import CliRunner

from adapt.text.corpus import read_text
from adapt.text.manifest import read_manifest

MUSIC = Path(__file__).resolve().parents[2] / "recipes" / "music"
SETS = {"test": 300, "dev": 150, "source/replay": 400, "source/dev": 150, "source/test": 300}
HELD_OUT = {
    "espeak-ng en-us+m5",
    "espeak-ng en-us+f4",
    "espeak-ng en-gb+m5",
    "espeak-ng en-gb+f4",
    "flite slt",
}


def rows(name):
    return [json.loads(line) for line in (MUSIC / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("name", "source"), [("test", "test"), ("dev", "dev"), ("source", "source/test")], ids=["test", "dev", "source"]
)
def test_the_natural_sets_have_the_sentences_of_the_others(name, source):
    natural, others = rows(f"natural/{name}"), rows(source)
    assert [{**row, "audio": "", "voice": ""} for row in natural] == [
        {**row, "audio": "", "voice": ""} for row in others
    ]
    assert all((MUSIC / "natural" / row["audio"]).exists() for row in natural)


def test_frames_of_general_speech_differ():
    frames = [read_text(path) for path in (MUSIC / "templates").glob("source_*.txt") if "fills" not in path.name]
    assert len(frames) == 3
    assert len(set(itertools.chain(*frames))) == sum(map(len, frames)) >= 250


@pytest.mark.parametrize("name", SETS)
def test_every_utterance_has_its_voice_and_readable_audio(name):
    utterances = read_manifest(MUSIC / f"{name}.jsonl")
    assert len(utterances) == SETS[name]
    voices = {row["voice"] for row in rows(name)}
    assert not voices & HELD_OUT if name == "source/replay" else voices == HELD_OUT, "voices of the set"
    for utterance in utterances:
        info = soundfile.info(utterance.audio.path)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "OPUS"), utterance.id
        samples, _ = soundfile.read(utterance.audio.path, dtype="float32")
        seconds = len(samples) / 16_000
        assert 0.1 < seconds / len(utterance.text.split()) < 1.2, f"{utterance.id}: seconds per word"
        assert abs(samples).max() > 0.1, f"{utterance.id}: loudness"
        assert utterance.audio.path.stat().st_size < 24_000, f"{utterance.id}: size of the file"


def test_phrase_lists_hold_the_entities_of_the_reference_and_twenty_others_for_each():
    made = CliRunner().invoke(run_path(str(MUSIC / "distractors.py"))["main"], [])
    listed = [json.loads(line) for line in made.stdout.splitlines()]
    mentioned = {row["id"]: {e["text"] for e in row["entities"]} for row in rows("test")}
    assert len(listed) == 300
    for row in listed:
        own, phrases = mentioned[row["id"]], set(row["phrases"])
        assert own <= phrases, row["id"]
        assert len(phrases - own) == 20 * len(own), row["id"]
