"""Paired audio of the domain, to learn a prompt from: sentences of text.txt in the voices that the base was trained on.

python recipes/music/paired.py, then adapt project recipes/music -s data.paired=data/paired.jsonl -s project.method=mlp
(espeak-ng and flite must be there).
"""

from __future__ import annotations

import json
import random

import click
from generate import HERE, manifest, synthesise, training_voices, write_audio
from tqdm import tqdm

from adapt.text.corpus import read_text


@click.command()
@click.option("--count", default=1000, show_default=True, type=click.IntRange(1), help="Utterances.")
def main(count: int) -> None:
    """Write data/paired.jsonl and its audio; what is there is kept."""
    sentences = random.Random("paired").sample(read_text(HERE / "text.txt"), count)
    out = HERE / "data"
    lines = manifest("music-paired", [{"text": sentence} for sentence in sentences], training_voices())
    for line in tqdm(lines, desc="speech"):
        path = out / line["audio"]
        if not path.exists():
            write_audio(path, synthesise(line["text"], line["voice"], line["id"]))
    out.mkdir(exist_ok=True)
    (out / "paired.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    click.echo(out / "paired.jsonl")


if __name__ == "__main__":
    main()
