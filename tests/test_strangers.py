"""Files as other people and tools write them (`tests/strangers/`), and what must come out of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adapt.decode.job import read_utterances
from adapt.errors import DataError
from adapt.model.features import read_audio
from adapt.score.scoring import score_systems
from adapt.text.lexicon import read_lexicon
from adapt.text.manifest import durations, read_manifest
from adapt.text.normalise import basic
from adapt.text.transcripts import read_hypothesis_texts, read_references
from adapt.text.words import words_of

FILES = Path(__file__).parent / "strangers"


def test_segments_of_a_call_are_utterances_of_their_own():
    utterances = read_manifest(FILES / "nemo_segments.json")
    assert [(u.id, u.text, u.voice) for u in utterances] == [
        ("call-0", "good morning", "1"),
        ("call-0.25", "hello", "2"),
        ("call-0.75-1", "bye", "1"),
    ]
    assert list(durations(utterances).values()) == [0.25, 0.5, 0.25]
    assert [len(read_audio(u.audio)) for u in utterances] == [4_000, 8_000, 4_000]
    assert np.abs(read_audio(utterances[2].audio)).max() < 0.3, "the quiet channel"
    hyps = read_hypothesis_texts(FILES / "nemo_segments.json")
    assert hyps == {"call-0": "good morning", "call-0.25": "yellow", "call-0.75-1": "bye"}


def test_both_channels_of_a_call_are_transcribed_by_themselves(caplog):
    call = str(FILES / "call.flac")
    assert [(u.id, u.audio.channel) for u in read_utterances([call], "each")] == [(f"{call}-0", 0), (f"{call}-1", 1)]
    assert [(u.id, u.audio.channel) for u in read_utterances([call], "1")] == [(call, 1)]
    assert not np.any(read_audio(FILES / "antiphase.flac")) and "cancel each other" in caplog.text


def test_texts_of_other_tools():
    kaldi = {"sw02001-A_000098-001156": "hi um yeah", "sw02001-A_001980-002131": "okay", "sw02001-A_002736-002893": ""}
    assert {u.id: u.text for u in read_references(FILES / "kaldi_text")} == kaldi
    assert read_hypothesis_texts(FILES / "comments.trn") == {"spk1-001": "play some jazz", "spk1-002": ""}
    assert read_hypothesis_texts(FILES / "header.tsv") == {"a": "play some jazz", "b": "stop"}
    with pytest.raises(DataError, match=r"alternatives.trn:2: alternatives '{ yes / yeah / @ }'"):
        read_references(FILES / "alternatives.trn")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("zh", "我 想 听 邓 丽 君 的 歌"),
        ("ja", "サ ザ ン を 再 生 し て"),
        ("th", "เ ปิ ด เ พ ล ง ใ ห้ ห น่ อ ย"),
        ("hi", "कृपया गाना चलाओ"),
        ("ar", "شغّل أغنية رقم 3"),
        ("tr", "istanbul'da şarkı çal"),
        ("mixed", "play 邓 丽 君 please"),
    ],
)
def test_words_in_many_scripts(name, words):
    texts = {u.id: u.text for u in read_references(FILES / "texts.tsv")}
    assert words_of(basic(texts[name])) == words.split()


def test_scores_in_many_scripts_count_words_or_characters():
    references = read_references(FILES / "texts.tsv")
    hyps = {u.id: "" for u in references}
    row = score_systems({"t": references}, {"t": {"nothing": hyps}}, None).rows[0]
    assert (row.wer, row.counts["words"]) == (1.0, 8 + 8 + 13 + 3 + 4 + 3 + 5)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("lexicon.csv", "is separated by commas; separate the fields by tabs"),
        ("excel.tsv", "excel.tsv:1: 'Name' reads like the heading of a column"),
        ("hashtags.tsv", "hashtags.tsv:3: '#1 Crush\\ttrack' may be a comment or an entity"),
    ],
)
def test_lexicons_that_are_something_else_are_refused(name, problem):
    with pytest.raises(DataError) as error:
        read_lexicon(FILES / name)
    assert problem in str(error.value) and len(error.value.problems) == 1
