"""Names are found by their sound, in a lexicon of any length."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from adapt.text import retrieval
from adapt.text.lexicon import Entry
from adapt.text.normalise import basic
from adapt.text.retrieval import NameIndex, SentenceIndex

NAMES = (
    "Kraftwerk",
    "Aretha Franklin",
    "AC/DC",
    "Midnight Train to Georgia",
    "Beyoncé",
    "邓丽君",
    "Ten Mile Run",
    "!!!",
)
HEARD = [
    ("ask me about craft work", "Kraftwerk"),
    ("nothing by a wreath of franklin today", "Aretha Franklin"),
    ("print the words to mitt and i trained to georgia", "Midnight Train to Georgia"),
    ("play ac dc", "AC/DC"),
    ("any chance of beyonsay", "Beyoncé"),
    ("play 邓丽军", "邓丽君"),
    ("10 mile run", "Ten Mile Run"),
]


def random_names(count: int) -> list[str]:
    rng = random.Random(1)
    parts = ("ba", "ren", "ko", "li", "sta", "mor", "e", "thu", "vin", "ja", "pol", "che", "dru", "ga", "sil", "ne")
    return [
        "".join(rng.choices(parts, k=rng.randint(2, 4))) + " " + "".join(rng.choices(parts, k=3)) for _ in range(count)
    ]


@pytest.mark.parametrize(("transcript", "name"), HEARD)
def test_a_name_is_found_by_what_it_was_taken_for(transcript, name):
    spoken = {"Ten Mile Run": ("one zero mile run",)}
    index = NameIndex([Entry(n, spoken=spoken.get(n, ())) for n in NAMES], basic)
    found = index.find(transcript, 3)
    assert found[0].entry.written == name
    assert all(a.score >= b.score > 0 for a, b in itertools.pairwise(found))


def test_letters_in_common_count_and_a_name_in_the_transcript_comes_first():
    index = NameIndex(map(Entry, ("Nas", "Ritz", "Shabu Shabu", "Mozzarella Sticks")), basic)
    found = [one.entry.written for one in index.find("play nas to the rats in marzoella sticks", 4)]
    assert found == ["Nas", "Mozzarella Sticks", "Ritz"]


def test_what_sounds_like_no_name_finds_none():
    index = NameIndex(map(Entry, NAMES), basic)
    assert index.find("", 5) == index.find("you", 5) == NameIndex([], basic).find("kraftwerk", 5) == []


def test_the_index_finds_what_an_exhaustive_search_finds():
    names, rng = list(dict.fromkeys(random_names(20_000))), random.Random(2)
    index = NameIndex(map(Entry, names), basic)
    found = total = 0
    for _ in range(60):
        words = rng.choice(names).split()
        letters = list(" ".join(words))
        letters[rng.randrange(len(letters))] = rng.choice("aeioutrs")
        heard = "please play " + "".join(letters) + " for my sister"
        every = {one.entry for one in index.find(heard, 20, compared=len(names))}
        found += len(every & {one.entry for one in index.find(heard, 20)})
        total += len(every)
    assert found >= 0.9 * total


def test_sentences_are_found_by_what_they_were_taken_for(monkeypatch):
    text = ["Play craft work, now!", "play kraftwerk now", "stop the music", "", "stop the music"]
    index = SentenceIndex(text, basic)
    assert index.find("place craft work now", 5) == ["play craft work now", "play kraftwerk now", "stop the music"]
    assert index.find("stopped the musik", 1) == ["stop the music"]
    assert index.find("", 3) == index.find("?!", 3) == SentenceIndex([], basic).find("play", 3) == []
    monkeypatch.setattr(retrieval, "SENTENCES", 2)
    assert len(SentenceIndex(text, basic).find("play", 5)) == 2


def test_a_name_counts_once_however_many_forms_it_has():
    entry = Entry("U2", spoken=("you two", "u two"))
    assert [one.entry for one in NameIndex([entry], basic).find("songs by you too", 5)] == [entry]


def test_the_run_of_words_that_sounds_most_like_a_name():
    index = NameIndex([], basic)

    def run(words, *forms):
        return index.runs_like(words.split(), [forms])[0]

    (found,) = NameIndex([Entry("Kraftwerk")], basic).find("ask me about craft work", 1)
    assert run("ask me about craft work", "Kraftwerk") == (found.score, 3, 4) and 0 < found.score < math.inf
    assert run("play a c d c", "AC/DC", "a c d c") == (math.inf, 1, 4)
    assert run("between 3 a and", "3M")[1:] == (1, 2), "the longest of equal runs"
    assert run("50 % craft work %", "Kraftwerk")[1:] == (2, 3), "without signs at its ends"
    assert run("hello", "Kraftwerk").score < 0
    assert run("", "Kraftwerk") is None and run("hello", "!!!") is None and run("%", "Kraftwerk") is None
    assert len(index.runs_like(["craft"], [("Kraft",), ("!!!",), ("Adele", "Kraft")])) == 3
