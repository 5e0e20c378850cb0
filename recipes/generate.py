"""Make the text and the manifests of a recipe: `python recipes/generate.py music`, `medical` or `chatbot`.

They depend only on the lexicon and on the recipe's `templates/`, and are the same on every machine. Audio is made by
speak.py; the repository contains it.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from domain import (
    Line,
    domain_text,
    index_of,
    read_entities,
    read_fills,
    source_set,
    split_entities,
    target_set,
)
from speak import held_out_voices, natural_voices, training_voices

from adapt.text.corpus import read_text

HERE = Path(__file__).resolve().parent
SOURCE = {"replay": 400, "dev": 150, "test": 300}


@dataclass(frozen=True)
class Sizes:
    """Sizes of a recipe. lengths: numbers of words that a sentence may have. The others are numbers of sentences."""

    lengths: range
    text: int
    test: int
    dev: int


SIZES = {
    "music": Sizes(range(4, 17), text=14_000, test=300, dev=150),
    "medical": Sizes(range(5, 21), text=10_000, test=200, dev=100),
    "chatbot": Sizes(range(12, 26), text=10_000, test=200, dev=100),
}


def manifest(prefix: str, lines: Sequence[Line], voices: Iterator[str]) -> list[Line]:
    """Add ids, audio paths and voices to sentences, in a fixed random order, so that each voice gets all templates."""
    rng = random.Random(prefix)
    kind = prefix.split("-")[1]
    return [
        {"id": f"{prefix}-{n:03d}", "audio": f"audio/{kind}/{prefix}-{n:03d}.ogg", **line, "voice": voice}
        for n, (line, voice) in enumerate(zip(rng.sample(lines, len(lines)), voices, strict=False), 1)
    ]


def lexicon_of(recipe: str) -> Path:
    """The lexicon of a recipe."""
    return HERE.parent / "lexicons" / f"{recipe}.tsv"


def generate(recipe: str) -> dict[str, list[str] | list[Line]]:
    """The files of a recipe, an element of SIZES: file name -> lines of text or manifest lines."""
    sizes, folder = SIZES[recipe], HERE / recipe / "templates"
    lexicon, nowhere = read_entities(lexicon_of(recipe)), read_entities(folder / "nowhere.tsv")
    index = index_of((*lexicon, *nowhere))
    templates = {name: read_text(folder / f"{name}.txt") for name in ("train", "dev", "test")}
    fills = read_fills(folder / "fills.txt")
    words = [
        *itertools.chain(*fills.values()),
        *(re.sub(r"\{\w+\}", "_", line) for line in templates["train"]),
    ]
    seen, unseen = split_entities(lexicon, words)
    hidden = (*unseen, *nowhere)
    text = domain_text(templates["train"], fills, seen, hidden, index, sizes.text, sizes.lengths)
    files: dict[str, list[str] | list[Line]] = {"text.txt": text}
    forbidden, kinds = set(text), (seen, unseen, nowhere)
    for name, count in (("test", sizes.test), ("dev", sizes.dev)):
        lines = target_set(name, templates[name], fills, kinds, index, forbidden, count, sizes.lengths)
        voices = held_out_voices() if recipe == "music" else natural_voices()
        files[f"{name}.jsonl"] = manifest(f"{recipe}-{name}", lines, voices)
        forbidden |= {line["text"] for line in lines}
    if recipe == "music":
        source_fills = read_fills(folder / "source_fills.txt")
        for name, count in SOURCE.items():
            frames = read_text(folder / f"source_{name}.txt")
            lines = source_set(name, frames, source_fills, index, count, sizes.lengths)
            voices = training_voices() if name == "replay" else held_out_voices()
            files[f"source/{name}.jsonl"] = manifest(f"source-{name}", lines, voices)
        for name, spoken in {"test": "test", "dev": "dev", "source": "source/test"}.items():
            files[f"natural/{name}.jsonl"] = in_natural_voices(files[f"{spoken}.jsonl"])
    return files


def in_natural_voices(lines: Sequence[Line]) -> list[Line]:
    """The same manifest lines, spoken by `natural_voices`."""
    return [
        {**line, "audio": f"audio/{line['id']}.ogg", "voice": voice}
        for line, voice in zip(lines, natural_voices(), strict=False)
    ]


@click.command()
@click.argument("recipe", type=click.Choice(list(SIZES)))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder to write into: the recipe's own.")
def main(recipe: str, out: Path | None) -> None:
    """Write the text and the manifests of a recipe."""
    for name, lines in generate(recipe).items():
        path = (out or HERE / recipe) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
        path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
        click.echo(f"{name}  {len(rows):,} lines", err=True)


if __name__ == "__main__":
    main()
