"""Sentences of a domain, from templates and a lexicon: decks of words and entities, and what each set may contain.

Sentences depend only on the lexicon, the templates and the names of the sets, and are the same on every machine.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from speak import deck

from adapt.text.corpus import read_text
from adapt.text.lexicon import Entry, Lexicon, read_lexicon
from adapt.text.manifest import Entity
from adapt.text.mentions import PhraseIndex, find_mentions, phrase_index
from adapt.text.normalise import basic

UNSEEN_SHARE = 0.35  # share of the lexicon's entities that the domain text must not contain
DEV_SHARE = 1 / 3  # share of the seen and of the unseen entities that occur only in dev; the others occur only in test
NOWHERE_EVERY = 4  # one in so many unseen mentions is an entity that is not in the lexicon either
ATTEMPTS = 25

T = TypeVar("T")
Draw = Callable[[str], str]
Fills = dict[str, tuple[str, ...]]
Line = dict[str, object]


def hashed(word: str) -> float:
    """A number in 0..1 that depends only on the word, so that a new entity leaves the others as they are."""
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:6], "big") / 2**48


def read_fills(path: Path) -> Fills:
    """Read lines `name: one | two`: the words that may fill the slot `{name}`."""
    pairs = (line.split(":", 1) for line in read_text(path))
    return {name.strip(): tuple(value.strip() for value in values.split("|")) for name, values in pairs}


def drawer(fills: Fills, rng: random.Random) -> Draw:
    """A function that draws a word for a slot. Each slot has its own deck; `{one|two}` lists its words itself."""
    decks: dict[str, Iterator[str]] = {}

    def draw(slot: str) -> str:
        if slot not in decks:
            decks[slot] = deck(tuple(slot.split("|")) if "|" in slot else fills[slot], rng)
        return next(decks[slot])

    return draw


def fill(template: str, draw: Draw, types: Iterable[str]) -> str:
    """Fill every slot except those of entities, inner slots first, and turn `a` into `an` before vowels.

    >>> fill("a {big|big} {animal} and {artist}", lambda slot: {"animal": "owl"}.get(slot, "old"), ["artist"])
    'an old owl and {artist}'
    """
    slot = re.compile(r"\{(?!(?:" + "|".join(types) + r")\})([^{}]*)\}")
    while slot.search(template):
        template = slot.sub(lambda match: draw(match[1]), template)
    return re.sub(r"\ba (?=[aeiou])(?!(?:uni|us[ei]|eu|one\b))", "an ", template)


def insert(template: str, draw: Draw) -> tuple[str, tuple[Entity, ...]]:
    """Fill the slots of entities. Returns the sentence and its entities in their order."""
    entities: list[Entity] = []

    def put(match: re.Match[str]) -> str:
        entities.append(Entity(draw(match[1]), match[1]))
        return entities[-1].text

    return re.sub(r"\{(\w+)\}", put, template), tuple(entities)


def said(entry: Entry) -> Entity:
    """An entry in the form that occurs in text: its first spoken form, or else the written form, normalised."""
    return Entity(basic(entry.spoken[0] if entry.spoken else entry.written), entry.type)


def read_entities(path: Path) -> tuple[Entity, ...]:
    """The entities of a lexicon in the form that occurs in text."""
    return tuple(said(entry) for entry in read_lexicon(path).entries)


def types_of(entities: Iterable[Entity]) -> tuple[str, ...]:
    """The types of the entities, each once."""
    return tuple(dict.fromkeys(entity.type for entity in entities))


def index_of(entities: Iterable[Entity]) -> PhraseIndex:
    """An index that finds every entity in a sentence; see `adapt.text.lexicon.find_mentions`."""
    return phrase_index(Lexicon("all", "", tuple(Entry(e.text, e.type) for e in entities)), basic)


def only_mentions(text: str, entities: Sequence[Entity], index: PhraseIndex) -> bool:
    """Whether a search for all known entities finds exactly these in the sentence."""
    return [Entity(m.written, m.type) for m in find_mentions(text.split(), index)] == list(entities)


def phrases_in(text: str) -> set[str]:
    """Every sequence of consecutive words of a sentence."""
    words = text.split()
    return {" ".join(words[i:j]) for i, j in itertools.combinations(range(len(words) + 1), 2)}


def split_entities(entities: Sequence[Entity], text: Iterable[str]) -> tuple[tuple[Entity, ...], tuple[Entity, ...]]:
    """Entities that may occur in the domain text, and those that must not, chosen by the hash of their words.

    An entity whose words are part of a template, a fill, or another entity is always seen, because the text could
    contain it by chance.
    """
    inside = set().union(*map(phrases_in, text), *(phrases_in(e.text) - {e.text} for e in entities))
    seen: list[Entity] = []
    unseen: list[Entity] = []
    for kind in types_of(entities):
        own = sorted((e for e in entities if e.type == kind), key=lambda e: hashed(e.text))
        hidden = [e for e in own if e.text not in inside][: round(UNSEEN_SHARE * len(own))]
        unseen += hidden
        seen += [e for e in own if e not in set(hidden)]
    return tuple(seen), tuple(unseen)


def by_type(entities: Iterable[Entity]) -> Fills:
    """The texts of the entities by type."""
    entities = tuple(entities)
    return {kind: tuple(e.text for e in entities if e.type == kind) for kind in types_of(entities)}


def part(entities: Iterable[Entity], name: str) -> tuple[Entity, ...]:
    """The entities that occur in the set `name`, `test` or `dev`."""
    return tuple(e for e in entities if (hashed(e.text + " ") < DEV_SHARE) == (name == "dev"))


def rounds(templates: Sequence[str], count: int, make: Callable[[str], T | None], rng: random.Random) -> list[T]:
    """Make `count` products, one per template and round. A template that yields no more is dropped."""
    products: list[T] = []
    templates = list(templates)
    while templates and len(products) < count:
        for template in rng.sample(templates, len(templates)):
            product = next(filter(None, (make(template) for _ in range(ATTEMPTS))), None)
            if product is None:
                templates.remove(template)
            elif len(products) < count:
                products.append(product)
    return products


def domain_text(
    templates: Sequence[str],
    fills: Fills,
    seen: Sequence[Entity],
    unseen: Sequence[Entity],
    index: PhraseIndex,
    count: int,
    lengths: range,
) -> list[str]:
    """`count` distinct sentences with seen entities. None of them contains an unseen entity.

    lengths: the numbers of words that a sentence may have.
    """
    rng = random.Random("text")
    draw, draw_entity = drawer(fills, rng), drawer(by_type(seen), rng)
    hidden, types = {e.text for e in unseen}, types_of(seen)
    lines: set[str] = set()

    def make(template: str) -> str | None:
        text, entities = insert(fill(template, draw, types), draw_entity)
        if len(text.split()) not in lengths or text in lines or not only_mentions(text, entities, index):
            return None
        if hidden & phrases_in(text):
            return None
        lines.add(text)
        return text

    return rounds(templates, count, make, rng)


def target_set(
    name: str,
    templates: Sequence[str],
    fills: Fills,
    entities: tuple[Sequence[Entity], Sequence[Entity], Sequence[Entity]],
    index: PhraseIndex,
    forbidden: set[str],
    count: int,
    lengths: range,
) -> list[Line]:
    """`count` sentences with entities of three kinds: seen, unseen (in the lexicon alone), and nowhere.

    Within each type, seen entities alternate with the others, so that each half has half of the mentions. `forbidden`
    has the sentences of the other sets. lengths: the numbers of words that a sentence may have.
    """
    rng = random.Random(f"target {name}")
    draw = drawer(fills, rng)
    pools = [drawer(by_type(part(pool, name)), rng) for pool in entities]
    turn: Counter[str] = Counter()
    texts: set[str] = set()
    types = types_of(entities[0])

    def draw_entity(kind: str) -> str:
        number = turn[kind]
        turn[kind] += 1
        pool = 0 if number % 2 == 0 else 2 if number // 2 % NOWHERE_EVERY == 0 else 1
        return pools[pool](kind)

    def make(template: str) -> Line | None:
        before = turn.copy()
        text, found = insert(fill(template, draw, types), draw_entity)
        if len(text.split()) not in lengths or text in texts | forbidden or not only_mentions(text, found, index):
            # A rejected sentence must not advance the turns, or the halves would no longer be equal.
            turn.clear()
            turn.update(before)
            return None
        texts.add(text)
        return {"text": text, "entities": [{"text": e.text, "type": e.type} for e in found]}

    return rounds(templates, count, make, rng)


def source_set(
    name: str, frames: Sequence[str], fills: Fills, index: PhraseIndex, count: int, lengths: range
) -> list[Line]:
    """`count` sentences of general English, without entities of the domain.

    lengths: the numbers of words that a sentence may have.
    """
    rng = random.Random(f"source {name}")
    draw = drawer(fills, rng)
    texts: set[str] = set()

    def make(template: str) -> Line | None:
        text = fill(template, draw, ())
        words = text.split()
        doubled = any(a == b for a, b in itertools.pairwise(words)) or twice(template, text, fills)
        if len(words) not in lengths or text in texts or doubled or find_mentions(words, index):
            return None
        texts.add(text)
        return {"text": text, "entities": []}

    return rounds(frames, count, make, rng)


def twice(template: str, text: str, fills: Fills) -> bool:
    """Whether two slots of the same name got the same word: `is peru larger than peru`."""
    for slot in set(re.findall(r"\{(\w+)\}", template)):
        if template.count(f"{{{slot}}}") > 1 and any(text.count(value) > 1 for value in fills[slot]):
            return True
    return False
