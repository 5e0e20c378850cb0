"""Wide text for the base `small`: the general text of recipes/base, names in sentences, and lists of rare words.

python recipes/small/make.py text --data DIR
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from adapt.text.lexicon import read_lexicon
from adapt.text.normalise import NORMALISERS

LEXICONS = Path(__file__).parents[2] / "lexicons"
# Names of people and places stand in for the entities of domains that nobody has thought of yet.
NAMED = (
    "call {person} and say that i am late",
    "is {person} coming from {city} to {city}",
    "the next train from {city} to {city}",
    "what is the weather like in {city} {country}",
    "{person} was born in {city}",
    "send a message to {first} and {first}",
    "remind me to write to {person} at noon",
    "{person} and {person} met in {city}",
    "i read a book by {author} about {country}",
    "who is {scientist}",
    "the professor quoted {scientist} and {author}",
    "{first} {last} {last} and {last}",
    "doctor {last} will see mister {last} now",
    "a flight from {country} to {country} by way of {city}",
    "{first} has moved from {city} to {city}",
    "ask {first} whether {person} has arrived",
    "{scientist}",
    "{person}",
    "{city} {country}",
    "{author} {city}",
)


def names(data: Path) -> dict[str, list[str]]:
    """Names by kind, without those of musicians, normalised."""
    normalise = NORMALISERS["basic"]
    folder = data / "lexicons_dariusk/data"

    def read(path: str, key: str) -> list:
        return json.loads((folder / path).read_text(encoding="utf-8"))[key]

    music = {normalise(e.written) for e in read_lexicon(LEXICONS / "music.tsv").entries}
    found = {
        "first": read("humans/firstNames.json", "firstNames"),
        "last": read("humans/lastNames.json", "lastNames"),
        "author": read("humans/authors.json", "authors"),
        "scientist": read("humans/scientists.json", "scientists"),
        "city": [row["city"] for row in read("geography/us_cities.json", "cities")],
        "country": read("geography/countries.json", "countries"),
    }
    return {
        kind: sorted({n for n in map(normalise, values) if n and set(n) <= set("abcdefghijklmnopqrstuvwxyz' ")} - music)
        for kind, values in found.items()
    }


def named_sentences(names: dict[str, Sequence[str]], count: int, rng: random.Random) -> list[str]:
    """Sentences of NAMED with names in them."""

    def draw(kind: str) -> str:
        return f"{draw('first')} {draw('last')}" if kind == "person" else rng.choice(names[kind])

    sentences = []
    for _ in range(count):
        words = rng.choice(NAMED).split()
        sentences.append(" ".join(draw(word.strip("{}")) if word.startswith("{") else word for word in words))
    return sentences


def rare_words(sentences: Sequence[str]) -> list[str]:
    """Words that occur once to ten times, with four letters or more."""
    counts = Counter(word for sentence in sentences for word in sentence.split())
    return sorted(word for word, n in counts.items() if n <= 10 and len(word) > 3 and "'" not in word)


def rare_lists(words: Sequence[str], rng: random.Random) -> list[str]:
    """All words in lists of three to six, in random order."""
    words, lists = rng.sample(words, len(words)), []
    while words:
        count = rng.randint(3, 6)
        lists.append(" ".join(words[:count]))
        words = words[count:]
    return lists
