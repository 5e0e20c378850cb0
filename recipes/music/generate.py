"""Make the text, manifests and audio of this recipe: `python recipes/music/generate.py --help`.

Text and manifests depend only on the lexicon and on `templates/`, and are the same on every machine. Audio also depends
on the versions of espeak-ng and flite. The repository therefore contains it, and only missing files are made.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from adapt.text.corpus import read_text
from adapt.text.lexicon import Entry, Lexicon, read_lexicon
from adapt.text.manifest import Entity
from adapt.text.mentions import PhraseIndex, find_mentions, phrase_index
from adapt.text.normalise import basic

if TYPE_CHECKING:
    import numpy as np

HERE = Path(__file__).resolve().parent
TEMPLATES = HERE / "templates"
LEXICON = HERE.parents[1] / "lexicons" / "music.tsv"
TYPES = ("artist", "track", "album", "playlist")

TEXT_LINES = 14_000
TARGET = {"test": 300, "dev": 150}
SOURCE = {"replay": 400, "dev": 150, "test": 300}
UNSEEN_SHARE = 0.35  # share of the lexicon's entities that the domain text must not contain
DEV_SHARE = 1 / 3  # share of the seen and of the unseen entities that occur only in dev; the others occur only in test
NOWHERE_EVERY = 4  # one in so many unseen mentions is an entity that is not in the lexicon either
WORDS = range(4, 17)
ATTEMPTS = 25

RATE = 16_000  # Hz
HELD_OUT_ESPEAK = ("en-us+m5", "en-gb+f4", "en-gb+m5", "en-us+f4")
ESPEAK = tuple(
    f"{accent}+{variant}"
    for accent in ("en-us", "en-gb", "en-gb-scotland", "en-029")
    for variant in ("m1", "m2", "m3", "m4", "m6", "m7", "m8", "f1", "f2", "f3", "f5")
)
FLITE = ("kal16", "awb", "rms")
# The engines read a lone `a` as the article, but `A.` as the letter.
PRONOUNCED = {"a c d c": "A.C.D.C."}

T = TypeVar("T")
Draw = Callable[[str], str]
Fills = dict[str, tuple[str, ...]]
Line = dict[str, object]


def hashed(word: str) -> float:
    """A number in 0..1 that depends only on the word, so that a new entity leaves the others as they are."""
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:6], "big") / 2**48


def deck(items: Sequence[str], rng: random.Random) -> Iterator[str]:
    """Yield all items in random order, shuffle, and repeat for ever, so that all items occur equally often."""
    while True:
        yield from rng.sample(items, len(items))


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


def fill(template: str, draw: Draw) -> str:
    """Fill every slot except those of entities, inner slots first, and turn `a` into `an` before vowels.

    >>> fill("a {big|big} {animal} and {artist}", lambda slot: {"animal": "owl"}.get(slot, "old"))
    'an old owl and {artist}'
    """
    slot = re.compile(r"\{(?!(?:" + "|".join(TYPES) + r")\})([^{}]*)\}")
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
    for kind in TYPES:
        own = sorted((e for e in entities if e.type == kind), key=lambda e: hashed(e.text))
        hidden = [e for e in own if e.text not in inside][: round(UNSEEN_SHARE * len(own))]
        unseen += hidden
        seen += [e for e in own if e not in set(hidden)]
    return tuple(seen), tuple(unseen)


def by_type(entities: Iterable[Entity]) -> Fills:
    """The texts of the entities by type."""
    entities = tuple(entities)
    return {kind: tuple(e.text for e in entities if e.type == kind) for kind in TYPES}


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
    count: int = TEXT_LINES,
) -> list[str]:
    """Distinct sentences with seen entities. None of them contains an unseen entity."""
    rng = random.Random("text")
    draw, draw_entity = drawer(fills, rng), drawer(by_type(seen), rng)
    hidden = {e.text for e in unseen}
    lines: set[str] = set()

    def make(template: str) -> str | None:
        text, entities = insert(fill(template, draw), draw_entity)
        if len(text.split()) not in WORDS or text in lines or not only_mentions(text, entities, index):
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
) -> list[Line]:
    """Manifest lines with entities of three kinds: seen, unseen (in the lexicon alone), and nowhere.

    Within each type, seen entities alternate with the others, so that each half has half of the mentions. `forbidden`
    has the sentences of the other sets.
    """
    rng = random.Random(f"target {name}")
    draw = drawer(fills, rng)
    pools = [drawer(by_type(part(pool, name)), rng) for pool in entities]
    turn: Counter[str] = Counter()
    texts: set[str] = set()

    def draw_entity(kind: str) -> str:
        number = turn[kind]
        turn[kind] += 1
        pool = 0 if number % 2 == 0 else 2 if number // 2 % NOWHERE_EVERY == 0 else 1
        return pools[pool](kind)

    def make(template: str) -> Line | None:
        before = turn.copy()
        text, found = insert(fill(template, draw), draw_entity)
        if len(text.split()) not in WORDS or text in texts | forbidden or not only_mentions(text, found, index):
            # A rejected sentence must not advance the turns, or the halves would no longer be equal.
            turn.clear()
            turn.update(before)
            return None
        texts.add(text)
        return {"text": text, "entities": [{"text": e.text, "type": e.type} for e in found]}

    return manifest(f"music-{name}", rounds(templates, TARGET[name], make, rng), held_out_voices())


def source_set(name: str, frames: Sequence[str], fills: Fills, index: PhraseIndex) -> list[Line]:
    """Manifest lines of general English, without entities of the domain."""
    rng = random.Random(f"source {name}")
    draw = drawer(fills, rng)
    texts: set[str] = set()

    def make(template: str) -> Line | None:
        text = fill(template, draw)
        words = text.split()
        doubled = any(a == b for a, b in itertools.pairwise(words)) or twice(template, text, fills)
        if len(words) not in WORDS or text in texts or doubled or find_mentions(words, index):
            return None
        texts.add(text)
        return {"text": text, "entities": []}

    voices = training_voices() if name == "replay" else held_out_voices()
    return manifest(f"source-{name}", rounds(frames, SOURCE[name], make, rng), voices)


def twice(template: str, text: str, fills: Fills) -> bool:
    """Whether two slots of the same name got the same word: `is peru larger than peru`."""
    for slot in set(re.findall(r"\{(\w+)\}", template)):
        if template.count(f"{{{slot}}}") > 1 and any(text.count(value) > 1 for value in fills[slot]):
            return True
    return False


def held_out_voices() -> Iterator[str]:
    """Voices that do not occur in training: two thirds espeak-ng, one third flite."""
    espeak = itertools.cycle(HELD_OUT_ESPEAK)
    while True:
        yield from (f"espeak-ng {next(espeak)}", f"espeak-ng {next(espeak)}", "flite slt")


def training_voices() -> Iterator[str]:
    """Repeat: three of many espeak-ng voices, then one of flite."""
    rng = random.Random("voices")
    espeak, flite = deck(ESPEAK, rng), deck(FLITE, rng)
    while True:
        yield from (f"espeak-ng {next(espeak)}" for _ in range(3))
        yield f"flite {next(flite)}"


def manifest(prefix: str, lines: Sequence[Line], voices: Iterator[str]) -> list[Line]:
    """Add ids, audio paths and voices to sentences, in a fixed random order, so that each voice gets all templates."""
    rng = random.Random(prefix)
    kind = prefix.split("-")[1]
    return [
        {"id": f"{prefix}-{n:03d}", "audio": f"audio/{kind}/{prefix}-{n:03d}.ogg", **line, "voice": voice}
        for n, (line, voice) in enumerate(zip(rng.sample(lines, len(lines)), voices, strict=False), 1)
    ]


def generate() -> dict[str, list[str] | list[Line]]:
    """Everything except audio: file name -> lines of text or manifest lines."""
    lexicon, nowhere = read_entities(LEXICON), read_entities(TEMPLATES / "nowhere.tsv")
    index = index_of((*lexicon, *nowhere))
    templates = {name: read_text(TEMPLATES / f"{name}.txt") for name in ("train", "dev", "test")}
    fills = read_fills(TEMPLATES / "fills.txt")
    words = [
        *itertools.chain(*fills.values()),
        *(re.sub(r"\{\w+\}", "_", line) for line in templates["train"]),
    ]
    seen, unseen = split_entities(lexicon, words)
    text = domain_text(templates["train"], fills, seen, (*unseen, *nowhere), index)
    files: dict[str, list[str] | list[Line]] = {"text.txt": text}
    forbidden = set(text)
    kinds = (seen, unseen, nowhere)
    for name in TARGET:
        files[f"{name}.jsonl"] = target_set(name, templates[name], fills, kinds, index, forbidden)
        forbidden |= {line["text"] for line in files[f"{name}.jsonl"]}
    source_fills = read_fills(TEMPLATES / "source_fills.txt")
    for name in SOURCE:
        frames = read_text(TEMPLATES / f"source_{name}.txt")
        files[f"source/{name}.jsonl"] = source_set(name, frames, source_fills, index)
    return files


def synthesise(text: str, voice: str, seed: str) -> np.ndarray:
    """Synthesise a sentence: float32 (samples,) at 16 kHz, with white noise at 20 to 35 dB SNR."""
    import numpy as np
    import soundfile
    from scipy.signal import resample_poly

    rng = random.Random(seed)
    engine, name = voice.split()
    held_out = name in HELD_OUT_ESPEAK
    rate = rng.randint(150, 180) if held_out else rng.randint(140, 195)
    pitch = rng.randint(40, 60) if held_out else rng.randint(30, 70)
    for phrase, written in PRONOUNCED.items():
        text = re.sub(rf"\b{phrase}\b", written, text)
    with tempfile.TemporaryDirectory() as folder:
        wav = str(Path(folder) / "speech.wav")
        command = {
            "espeak-ng": ["espeak-ng", "-v", name, "-s", str(rate), "-p", str(pitch), "-w", wav, text],
            "flite": ["flite", "-voice", name, "-t", text, "-o", wav],
        }[engine]
        subprocess.run(command, check=True, capture_output=True)
        speech, own_rate = soundfile.read(wav, dtype="float64")
    speech = resample_poly(speech, RATE, own_rate)
    speech *= 0.6 / max(abs(speech).max(), 1e-9)
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(len(speech))
    snr = rng.uniform(20, 35)
    return (speech + noise * np.sqrt((speech**2).mean()) * 10 ** (-snr / 20)).astype(np.float32)


def write_audio(path: Path, speech: np.ndarray) -> None:
    """Write mono Ogg/Opus at about 20 kbit/s."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, speech, RATE, format="OGG", subtype="OPUS", compression_level=0.95)


@click.command()
@click.option("--audio", is_flag=True, help="Also synthesise sentences that have no audio file.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=HERE, help="Folder to write into.")
def main(audio: bool, out: Path) -> None:
    """Write the domain text and the manifests of the target and source sets."""
    for name, lines in generate().items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
        path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
        click.echo(f"{name}  {len(rows):,} lines", err=True)
        for line in lines:
            if audio and isinstance(line, dict) and not (file := path.parent / line["audio"]).exists():
                write_audio(file, synthesise(line["text"], line["voice"], line["id"]))


if __name__ == "__main__":
    main()
