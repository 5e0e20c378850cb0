"""An n-gram LM and a list of phrases over the tokens of the tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from adapt.lm.automaton import Automaton
from adapt.lm.boosting import boosting_automaton
from adapt.lm.estimate import estimate, write_arpa
from adapt.lm.ngram import load_ngrams
from adapt.lm.phrases import Phrase, word_beginnings

LINES = [
    "play the song",
    "play the music now",
    "stop it",
    "tell me what it is",
    "play it again please",
    "the song is it",
]


class Models(NamedTuple):
    arpa: Path
    lm: Automaton
    phrases: Automaton


@pytest.fixture
def models(tiny, tmp_path) -> Models:
    """The ARPA of LINES, its automaton, and that of two of their phrases."""
    ids = [tiny.tokenizer.encode(line, add_special_tokens=False) for line in LINES]
    vocabulary = tiny.model.config.get_text_config().vocab_size
    write_arpa(estimate(ids, vocabulary, 3), tmp_path / "tokens.arpa")
    lm = load_ngrams(tmp_path / "tokens.arpa", vocabulary, ends=[2])
    begins = np.array(word_beginnings(tiny.tokenizer.convert_ids_to_tokens(list(range(vocabulary)))))
    phrases = [Phrase(tuple(i), tuple(i)) for i in (ids[2], ids[0][1:])]
    return Models(tmp_path / "tokens.arpa", lm, boosting_automaton([phrases], begins, ends=[2]))
