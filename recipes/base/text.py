"""General English text for the base model: seven corpora, filtered to plain words and capped, without music.

python recipes/base/make.py text --data DIR
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from adapt.text.normalise import NORMALISERS

# Most sentences kept of each source, so that no source dominates.
CAPS = {
    "standardebooks": 70_000,
    "sgd": 45_000,
    "qmsum": 25_000,
    "topical_chat": 15_000,
    "clinc150": 15_000,
    "restaurant8k": 7_000,
    "ljspeech": 6_000,
}
HELD_OUT = 1_000  # sentences that no training stage sees, for development and test
WORDS = (2, 16)
CHARACTERS = 90

# Music and media are a target domain, so the base must not be trained on them.
MUSIC = re.compile(
    r"\b(music\w*|songs?|sing|sings|singers?|singing|sang|sung|albums?|bands?|playlists?|artists?|concerts?|"
    r"guitar\w*|piano\w*|violin\w*|drum\w*|orchestra\w*|opera\w*|melod\w*|tunes?|lyrics?|rapper\w*|rock|jazz|pop|hip|"
    r"radio\w*|podcasts?|spotify|pandora|tracks?|audio|listen\w*|genre\w*|karaoke|choir\w*|chorus\w*|composer\w*|"
    r"symphon\w*|beatles|elvis|beyonce|billboard|grammy\w*|dj|vinyl|headphones?|movies?|films?)\b"
)
PLAIN = re.compile(r"[a-z' ]+")
# Periods after these do not end a sentence.
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\bMr\.)(?<!\bDr\.)(?<!\bMrs\.)(?<!\bSt\.)[”’\"']?\s+")


def _gzip_lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from lines


def _standardebooks(data: Path) -> Iterator[str]:
    for line in _gzip_lines(data / "standardebooks/books.txt.gz"):
        yield from SENTENCE_END.split(line)


def _sgd(data: Path) -> Iterator[str]:
    for line in _gzip_lines(data / "sgd/derived_other_text.txt.gz"):
        yield from SENTENCE_END.split(line)


def _qmsum(data: Path) -> Iterator[str]:
    for line in _gzip_lines(data / "qmsum_meetings/derived_meetings.txt.gz"):
        if "{" not in line:
            yield re.sub(r" (?='|n't\b)", "", line)


def _topical_chat(data: Path) -> Iterator[str]:
    for name in ("freq", "rare"):
        for line in _gzip_lines(data / f"topical_chat/derived_valid_{name}.jsonl.gz"):
            for message in json.loads(line)["messages"]:
                yield from SENTENCE_END.split(message)


def _clinc150(data: Path) -> Iterator[str]:
    queries = json.loads((data / "clinc150/data/data_full.json").read_text(encoding="utf-8"))
    for text, _intent in queries["train"] + queries["val"]:
        yield text


def _restaurant8k(data: Path) -> Iterator[str]:
    path = data / "restaurant8k/span_extraction/restaurant8k/train_0.json"
    for item in json.loads(path.read_text(encoding="utf-8")):
        yield item["userInput"]["text"]


def _ljspeech(data: Path) -> Iterator[str]:
    text = io.StringIO("".join(_gzip_lines(data / "ljspeech_text/derived_ljspeech.tsv.gz")))
    for row in csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE):
        yield row[-1]


SOURCES = {
    "standardebooks": _standardebooks,
    "sgd": _sgd,
    "qmsum": _qmsum,
    "topical_chat": _topical_chat,
    "clinc150": _clinc150,
    "restaurant8k": _restaurant8k,
    "ljspeech": _ljspeech,
}


def keep(sentence: str) -> bool:
    """Whether a normalised sentence has only plain words, a suitable length, and nothing about music.

    >>> keep("where is the station"), keep("play a song"), keep("at 5 pm"), keep("yes")
    (True, False, False, False)
    """
    words = sentence.split()
    return (
        WORDS[0] <= len(words) <= WORDS[1]
        and len(sentence) <= CHARACTERS
        and PLAIN.fullmatch(sentence) is not None
        and MUSIC.search(sentence) is None
        and not any(len(word) == 1 and word not in "aio" for word in words)
    )


def general_text(data: Path, seed: int = 1) -> tuple[list[str], list[str], list[str]]:
    """Training sentences, `HELD_OUT` further sentences, and those that the caps left out; normalised and distinct."""
    rng, normalise = random.Random(seed), NORMALISERS["basic"]
    chosen: set[str] = set()
    sentences: list[str] = []
    beyond: set[str] = set()
    for name, read in SOURCES.items():
        found = sorted({s for s in map(normalise, read(data)) if keep(s)} - chosen)
        beyond.update(found)
        found = rng.sample(found, min(CAPS[name], len(found)))
        chosen.update(found)
        sentences += found
    rng.shuffle(sentences)
    return sentences[HELD_OUT:], sentences[:HELD_OUT], sorted(beyond - chosen)
