"""The music recipe: its text, lexicon and sets are as they are described, and the generator makes them again."""

from __future__ import annotations

import difflib
import importlib.util
import itertools
import json
import re
from collections import Counter
from pathlib import Path
from runpy import run_path

import pytest
import soundfile
from click.testing import CliRunner

from adapt.text.corpus import read_text
from adapt.text.lexicon import read_lexicon
from adapt.text.manifest import read_manifest
from adapt.text.mentions import find_mentions, phrase_index
from adapt.text.normalise import basic

ROOT = Path(__file__).resolve().parents[2]
MUSIC = ROOT / "recipes" / "music"
TARGET = {"test": 300, "dev": 150}
SOURCE = {"replay": 400, "dev": 150, "test": 300}
MANIFESTS = [*(f"{name}.jsonl" for name in TARGET), *(f"source/{name}.jsonl" for name in SOURCE)]
PLAIN = re.compile(r"[a-z]+('[a-z]+)*( [a-z]+('[a-z]+)*)*")
HELD_OUT = {
    "espeak-ng en-us+m5",
    "espeak-ng en-us+f4",
    "espeak-ng en-gb+m5",
    "espeak-ng en-gb+f4",
    "flite slt",
}


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("music_generate", MUSIC / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def text():
    return read_text(MUSIC / "text.txt")


@pytest.fixture(scope="module")
def entities(generator):
    """Phrases of the lexicon, and of the list that neither lexicon nor text holds."""
    lists = map(generator.read_entities, (generator.LEXICON, generator.TEMPLATES / "nowhere.tsv"))
    return [[entity.text for entity in entities] for entities in lists]


def rows(name):
    return [json.loads(line) for line in (MUSIC / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("name", "source"), [("test", "test"), ("dev", "dev"), ("source", "source/test")], ids=["test", "dev", "source"]
)
def test_the_natural_sets_have_the_sentences_of_the_others_in_six_voices(name, source):
    natural, others = rows(f"natural/{name}.jsonl"), rows(f"{source}.jsonl")
    assert [{**row, "audio": "", "voice": ""} for row in natural] == [
        {**row, "audio": "", "voice": ""} for row in others
    ]
    voices = Counter(row["voice"] for row in natural)
    assert len(voices) == 6 and voices["piper en_US-joe"] == len(natural) // 2
    for row in natural[::25]:
        seconds = soundfile.info(MUSIC / "natural" / row["audio"]).duration
        assert 0.04 < seconds / len(row["text"]) < 0.15, row["id"]


def test_the_generator_makes_the_same_files_again(generator, tmp_path):
    result = CliRunner().invoke(generator.main, ["--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    for name in ("text.txt", *MANIFESTS):
        assert (tmp_path / name).read_bytes() == (MUSIC / name).read_bytes(), name


def test_lexicon_holds_plain_distinct_entities_of_four_types(entities):
    lexicon, nowhere = entities
    types = Counter(entry.type for entry in read_lexicon(ROOT / "lexicons" / "music.tsv").entries)
    assert types.keys() == {"artist", "track", "album", "playlist"}
    assert types.total() >= 1100
    assert len({*lexicon, *nowhere}) == len(lexicon) + len(nowhere)
    assert all(PLAIN.fullmatch(phrase) for phrase in (*lexicon, *nowhere))


def test_text_is_plain_distinct_and_holds_no_spoken_sentence(text):
    assert len(set(text)) == len(text) >= 10_000
    assert all(PLAIN.fullmatch(line) and 4 <= len(line.split()) <= 16 for line in text)
    spoken = [row["text"] for name in MANIFESTS for row in rows(name)]
    assert len(set(spoken)) == len(spoken)
    assert not set(spoken) & set(text)


def test_text_holds_two_thirds_of_the_lexicon_and_nothing_of_the_rest(generator, text, entities):
    lexicon, nowhere = entities
    # Substrings between spaces, which is another way to look than the generator's.
    joined = "".join(f" {line} \n" for line in text)
    held = {phrase for phrase in lexicon if f" {phrase} " in joined}
    assert len(held) / len(lexicon) == pytest.approx(0.65, abs=0.01)
    assert not [phrase for phrase in nowhere if f" {phrase} " in joined]


@pytest.mark.parametrize("name", TARGET)
def test_half_of_the_mentions_are_unseen(name, text, entities):
    lexicon, nowhere = entities
    joined = "".join(f" {line} \n" for line in text)
    mentions = [entity["text"] for row in rows(f"{name}.jsonl") for entity in row["entities"]]
    kinds = Counter("seen" if f" {m} " in joined else "lexicon" if m in set(lexicon) else "nowhere" for m in mentions)
    assert kinds["seen"] / kinds.total() == pytest.approx(0.5, abs=0.02)
    assert kinds["nowhere"] / kinds.total() == pytest.approx(0.13, abs=0.03)
    assert {m for m in mentions if m not in set(lexicon)} <= set(nowhere)


def test_test_and_dev_share_no_entity():
    test, dev = ({e["text"] for row in rows(f"{name}.jsonl") for e in row["entities"]} for name in TARGET)
    assert not test & dev


def test_references_name_every_mention_that_the_lexicon_finds(entities):
    nowhere = set(entities[1])
    index = phrase_index(read_lexicon(ROOT / "lexicons" / "music.tsv"), basic)
    for name in MANIFESTS:
        for row in rows(name):
            words = row["text"].split()
            found = [" ".join(words[m.start : m.end]) for m in find_mentions(words, index)]
            assert found == [e["text"] for e in row["entities"] if e["text"] not in nowhere], row["id"]


def test_templates_of_the_sets_differ():
    templates = {name: read_text(MUSIC / "templates" / f"{name}.txt") for name in ("train", "dev", "test")}
    assert len(templates["train"]) >= 250 and len(templates["test"]) >= 80 and len(templates["dev"]) >= 40
    for one, other in itertools.permutations(templates, 2):
        near = [
            (a, b)
            for a in templates[one]
            for b in templates[other]
            if (m := difflib.SequenceMatcher(None, a.split(), b.split())).real_quick_ratio() >= 0.7
            and m.quick_ratio() >= 0.7
            and m.ratio() >= 0.7
        ]
        assert not near
    frames = [read_text(MUSIC / "templates" / f"source_{name}.txt") for name in SOURCE]
    assert len(set(itertools.chain(*frames))) == sum(map(len, frames)) >= 250


def test_no_template_slot_and_no_wrong_article_is_left(text):
    lines = [*text, *(row["text"] for name in MANIFESTS for row in rows(name))]
    wrong = re.compile(r"[{}_|]|\ba (?=[aeio])(?!eu|one\b)|\ban (?![aeiou])")
    names = read_lexicon(ROOT / "lexicons" / "music.tsv").entries
    names = {basic(form) for entry in names for form in (entry.written, *entry.spoken)}
    odd = [line for line in lines if (m := wrong.search(line)) and not any(m[0] in name for name in names)]
    assert not odd


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_utterance_has_its_voice_and_readable_audio(name):
    soundfile = pytest.importorskip("soundfile")
    utterances = read_manifest(MUSIC / name)
    assert len(utterances) == {**{f"source/{k}": v for k, v in SOURCE.items()}, **TARGET}[name[: -len(".jsonl")]]
    voices = {row["voice"] for row in rows(name)}
    assert not voices & HELD_OUT if name == "source/replay.jsonl" else voices == HELD_OUT, "voices of the set"
    for utterance in utterances:
        info = soundfile.info(utterance.audio.path)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "OPUS"), utterance.id
        samples, _ = soundfile.read(utterance.audio.path, dtype="float32")
        seconds = len(samples) / 16_000
        assert 0.1 < seconds / len(utterance.text.split()) < 1.2, f"{utterance.id}: seconds per word"
        assert abs(samples).max() > 0.1, f"{utterance.id}: loudness"
        assert utterance.audio.path.stat().st_size < 24_000, f"{utterance.id}: size of the file"


def test_audio_is_made_only_where_it_is_missing(generator, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(generator, "synthesise", lambda text, voice, seed: seed)
    monkeypatch.setattr(generator, "write_audio", lambda path, speech: made.append(speech))
    monkeypatch.setattr(
        generator,
        "generate",
        lambda: {"x.jsonl": [{"id": i, "audio": i, "text": "", "voice": ""} for i in "ab"]},
    )
    (tmp_path / "a").touch()
    assert CliRunner().invoke(generator.main, ["--out", str(tmp_path), "--audio"]).exit_code == 0
    assert made == ["b"]


def test_phrase_lists_hold_the_entities_of_the_reference_and_twenty_others_for_each():
    made = CliRunner().invoke(run_path(str(MUSIC / "distractors.py"))["main"], [])
    listed = [json.loads(line) for line in made.stdout.splitlines()]
    mentioned = {row["id"]: {e["text"] for e in row["entities"]} for row in rows("test.jsonl")}
    assert len(listed) == 300
    for row in listed:
        own, phrases = mentioned[row["id"]], set(row["phrases"])
        assert own <= phrases, row["id"]
        assert len(phrases - own) == 20 * len(own), row["id"]
