"""Make paired audio of the domain, to learn a prompt from.

python recipes/music/paired.py
adapt project recipes/music -s data.paired=data/paired.jsonl -s project.method=mlp

Synthesises sentences of text.txt in the voices that the base was trained on. Needs espeak-ng and flite.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import click
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # the makers of all recipes

from generate import manifest  # noqa: E402
from speak import synthesise, training_voices, write_audio  # noqa: E402

from adapt.text.corpus import read_text  # noqa: E402


@click.command()
@click.option("--count", default=1000, show_default=True, type=click.IntRange(1), help="Utterances to synthesise.")
def main(count: int) -> None:
    """Write data/paired.jsonl and its audio. Audio that already exists for the same sentences is kept."""
    text, out = read_text(HERE / "text.txt"), HERE / "data"
    sentences = random.Random("paired").sample(text, min(count, len(text)))
    lines = manifest("music-paired", [{"text": sentence} for sentence in sentences], training_voices())
    written, made = out / "paired.jsonl", []
    kept = written.read_text(encoding="utf-8").splitlines() if written.exists() else []
    written.unlink(missing_ok=True)  # it would no longer match the audio once the first file is replaced
    out.mkdir(exist_ok=True)
    for line in tqdm(lines, desc="speech"):
        path = out / line["audio"]
        if json.dumps(line) not in kept or not path.exists():
            write_audio(path, synthesise(line["text"], line["voice"], line["id"]))
        made.append(json.dumps(line) + "\n")
    written.write_text("".join(made), encoding="utf-8")
    click.echo(written)


if __name__ == "__main__":
    main()
