"""Reference and hypothesis pairs that several files score."""

from __future__ import annotations

import random

import pytest

from adapt.text.lexicon import Entry, Lexicon
from adapt.text.manifest import Entity, Utterance

WORDS = ["a", "b", "cc", "dd", "e"]


@pytest.fixture(scope="session")
def random_pairs():
    """Pairs of a reference of 1 to 9 words and a hypothesis of 0 to 9, the same for each seed."""

    def pairs(count, seed=0):
        generator = random.Random(seed)
        lengths = (1, 0)
        return [
            tuple(" ".join(generator.choices(WORDS, k=generator.randint(least, 9))) for least in lengths)
            for _ in range(count)
        ]

    return pairs


@pytest.fixture(scope="session")
def as_set():
    """Utterances of the references, and hypotheses by id."""

    def split(pairs):
        utterances = [Utterance(str(i), ref) for i, (ref, _) in enumerate(pairs)]
        return utterances, {str(i): hyp for i, (_, hyp) in enumerate(pairs)}

    return split


@pytest.fixture
def worked():
    """Six mentions, three of them seen; base gets four wrong, adapted one; one false alarm each."""
    entries = (Entry("Abba", "artist"), Entry("Let It Be", "track"), Entry("Hi-Hi"))
    test = [
        Utterance("1", "Play Abba and Abba!", entities=(Entity("Abba", "artist"),) * 2),
        Utterance("2", "Play let it be"),
        Utterance("3", "Abba, let it be, hi hi"),
        Utterance("4", "stop"),
    ]
    base = {"1": "play a bar and abba", "2": "play let it", "3": "abba let be high high", "4": "stop abba"}
    adapted = {u.id: u.text for u in test} | {"3": "abba let it be hi high", "4": "stop abba"}
    guard = [Utterance("g", "stop it", entities=())]
    lexicon = Lexicon("music", "3f9c1e", entries)
    return (
        {"target": test, "source": guard},
        {"target": {"base": base, "adapted": adapted}, "source": {"base": {"g": "stop"}}},
        lexicon,
    )
