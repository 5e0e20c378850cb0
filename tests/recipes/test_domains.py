"""The recipes of domains: text, lexicon and sets are as they are described, and the generator makes them again."""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile
from click.testing import CliRunner

from adapt.text.corpus import read_text
from adapt.text.lexicon import read_lexicon
from adapt.text.manifest import read_manifest
from adapt.text.mentions import find_mentions, phrase_index
from adapt.text.normalise import basic

ROOT = Path(__file__).resolve().parents[2]
PLAIN = re.compile(r"[a-z]+('[a-z]+)*( [a-z]+('[a-z]+)*)*")
TYPES = {
    "music": {"artist", "track", "album", "playlist"},
    "medical": {"drug", "condition", "procedure"},
    "chatbot": {"organisation", "technology", "food"},
}
TARGET = ("test.jsonl", "dev.jsonl")
SOURCE = ("replay.jsonl", "dev.jsonl", "test.jsonl")


@dataclass(frozen=True)
class Domain:
    """A recipe as it is stored. lexicon, nowhere: phrases of the lexicon, and of the list that it does not hold."""

    name: str
    folder: Path
    text: list[str]
    lexicon: list[str]
    nowhere: list[str]

    @property
    def spoken(self) -> dict[str, list[dict]]:
        """The rows of every set, by its file."""
        return {
            path: [json.loads(line) for line in (self.folder / path).read_text(encoding="utf-8").splitlines()]
            for path in (*TARGET, *(f"../music/source/{name}" for name in SOURCE))
        }

    @property
    def held(self) -> set[str]:
        """Phrases that the text has, found as substrings between spaces: another way to look than the generator's."""
        joined = "".join(f" {line} \n" for line in self.text)
        return {phrase for phrase in (*self.lexicon, *self.nowhere) if f" {phrase} " in joined}


@pytest.fixture(scope="module", params=sorted(TYPES))
def domain(request, makers) -> Domain:
    folder = ROOT / "recipes" / request.param
    lists = (ROOT / "lexicons" / f"{request.param}.tsv", folder / "templates/nowhere.tsv")
    phrases = [[entity.text for entity in makers["domain"].read_entities(path)] for path in lists]
    return Domain(request.param, folder, read_text(folder / "text.txt"), *phrases)


def test_every_recipe_with_templates_is_tested(makers):
    with_templates = {path.parent.name for path in (ROOT / "recipes").glob("*/templates")}
    assert with_templates == set(TYPES) == set(makers["generate"].SIZES)


def test_the_generator_makes_the_same_files_again(domain, makers, tmp_path):
    result = CliRunner().invoke(makers["generate"].main, [domain.name, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    made = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")]
    assert {Path("text.txt"), Path("test.jsonl"), Path("dev.jsonl")} <= set(made)
    for path in made:
        assert (tmp_path / path).read_bytes() == (domain.folder / path).read_bytes(), path


def test_lexicon_holds_plain_distinct_entities_of_its_types(domain):
    types = Counter(entry.type for entry in read_lexicon(ROOT / "lexicons" / f"{domain.name}.tsv").entries)
    assert types.keys() == TYPES[domain.name]
    assert types.total() >= 1100
    assert len({*domain.lexicon, *domain.nowhere}) == len(domain.lexicon) + len(domain.nowhere)
    assert all(PLAIN.fullmatch(phrase) for phrase in (*domain.lexicon, *domain.nowhere))


def test_text_is_plain_distinct_and_holds_no_spoken_sentence(domain, makers):
    text, sizes = domain.text, makers["generate"].SIZES[domain.name]
    assert len(set(text)) == len(text) == sizes.text >= 10_000
    assert all(PLAIN.fullmatch(line) and len(line.split()) in sizes.lengths for line in text)
    spoken = [row["text"] for rows in domain.spoken.values() for row in rows]
    assert len(set(spoken)) == len(spoken)
    assert not set(spoken) & set(text)


def test_text_holds_two_thirds_of_the_lexicon_and_nothing_of_the_rest(domain):
    held = domain.held
    assert len(held & set(domain.lexicon)) / len(domain.lexicon) == pytest.approx(0.65, abs=0.01)
    assert not held & set(domain.nowhere)


@pytest.mark.parametrize("name", TARGET)
def test_half_of_the_mentions_are_unseen(domain, name):
    held, lexicon = domain.held, set(domain.lexicon)
    mentions = [entity["text"] for row in domain.spoken[name] for entity in row["entities"]]
    kinds = Counter("seen" if m in held else "lexicon" if m in lexicon else "nowhere" for m in mentions)
    assert kinds["seen"] / kinds.total() == pytest.approx(0.5, abs=0.02)
    assert kinds["nowhere"] / kinds.total() == pytest.approx(0.13, abs=0.03)
    assert {m for m in mentions if m not in lexicon} <= set(domain.nowhere)


def test_test_and_dev_share_no_entity(domain):
    test, dev = ({e["text"] for row in domain.spoken[name] for e in row["entities"]} for name in TARGET)
    assert test and dev and not test & dev


def test_references_name_every_mention_that_the_lexicon_finds(domain):
    index = phrase_index(read_lexicon(ROOT / "lexicons" / f"{domain.name}.tsv"), basic)
    for row in itertools.chain(*domain.spoken.values()):
        words = row["text"].split()
        found = [" ".join(words[m.start : m.end]) for m in find_mentions(words, index)]
        assert found == [e["text"] for e in row["entities"] if e["text"] not in domain.nowhere], row["id"]


def test_templates_of_the_sets_differ(domain):
    templates = {name: read_text(domain.folder / "templates" / f"{name}.txt") for name in ("train", "dev", "test")}
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


def test_no_template_slot_and_no_wrong_article_is_left(domain):
    wrong = re.compile(r"[{}_|]|\ba (?=[aeio])(?!eu|one\b)|\ban (?![aeiou]|hour\b|honest\b)")
    own = [name for name in (*domain.lexicon, *domain.nowhere) if {"a", "an"} & set(name.split())]  # as `a c d c`
    names = re.compile(rf"\b({'|'.join(sorted(own, key=len, reverse=True))})\b")
    lines = [*domain.text, *(row["text"] for rows in domain.spoken.values() for row in rows)]
    assert not [line for line in lines if wrong.search(names.sub("", line))]


@pytest.mark.parametrize("name", TARGET)
@pytest.mark.parametrize("recipe", ["music/natural", "medical", "chatbot"])
def test_six_natural_voices_read_the_sets(recipe, name):
    utterances = read_manifest(ROOT / "recipes" / recipe / name)
    rows = [json.loads(line) for line in (ROOT / "recipes" / recipe / name).read_text(encoding="utf-8").splitlines()]
    voices = Counter(row["voice"] for row in rows)
    assert len(voices) == 6 and voices["piper en_US-joe"] == len(utterances) // 2
    for utterance in utterances:
        info = soundfile.info(utterance.audio.path)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "OPUS"), utterance.id
        assert 0.04 < info.duration / len(utterance.text) < 0.15, f"{utterance.id}: seconds per letter"
        assert utterance.audio.path.stat().st_size < 24_000, f"{utterance.id}: size of the file"
