"""The multilingual recipe: its sentences are complete, and its sets share no sentence and no voice."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "recipes/multilingual"


@pytest.fixture(autouse=True)
def beside_the_recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "generate", raising=False)


@pytest.mark.parametrize("language", ["en", "de", "fr", "es"])
def test_sentences_use_every_list_of_words(language):
    import generate

    slots, sentences = generate.templates(language)
    assert len(sentences) == len(set(sentences)) == 24
    assert set(re.findall(r"\{(\w+)\}", " ".join(sentences))) == set(slots)


@pytest.mark.parametrize("language", ["en", "de", "fr", "es"])
def test_sets_share_no_sentence_and_no_voice(language):
    import generate

    found = generate.rows(language, random.Random(language))
    sizes = {"train": generate.COUNTS[language], "dev": 40, "test": 100}
    assert {kind: len(rows) for kind, rows in found.items()} == sizes
    assert found == generate.rows(language, random.Random(language)), "the sets are the same each time"
    voices = [{row["voice"] for row in rows} for rows in found.values()]
    assert not voices[0] & voices[1] and not voices[0] & voices[2] and not voices[1] & voices[2], "voices"
    texts = [{row["text"] for row in rows} for rows in found.values()]
    assert not texts[0] & texts[1] and not texts[0] & texts[2], "sentences of training"
    assert not any("{" in text or text != text.lower() for text in texts[0]), "plain text"
