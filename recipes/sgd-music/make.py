"""Prepare the data of this recipe from the Schema-Guided Dialogue corpus, whose sentences are not part of the package.

    python recipes/sgd-music/make.py SGD/derived_music_media.jsonl.gz
    voices-env/bin/python recipes/speak.py recipes/sgd-music/data/*.jsonl --voices VOICES

The corpus file has a turn a line: `id`, `split`, `speaker`, `text`, and `entities` with `type`, `start` and `end`.
The first command writes the text of the training dialogues, the lexicon of all names, and manifests with sentences of
users from the development and test dialogues. The second has them read by joe, and says how to get this voice.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path

import click

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
# Types of the corpus by type of the lexicon.
NAMES = {
    "track": ("song_name", "track"),
    "artist": ("artist",),
    "album": ("album",),
    "film": ("title", "movie_name", "movie_title"),
    "person": ("directed_by", "starring", "director", "actors", "cast"),
}
TYPES = {theirs: ours for ours, several in NAMES.items() for theirs in several}
VOICE = "piper en_US-joe"  # no base that this repository trains has heard it
SPOKEN = {"dev": 150, "test": 300}


def read_turns(file: Path) -> list[dict]:
    """The turns of the corpus whose text has no digits, which the base cannot write."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        turns = [json.loads(line) for line in lines]
    return [turn for turn in turns if not re.search(r"\d", turn["text"])]


def mentions(turn: dict) -> list[tuple[str, str]]:
    """(name, type) of the turn, normalised."""
    from adapt.text.normalise import basic

    spans = [(turn["text"][e["start"] : e["end"]], TYPES[e["type"]]) for e in turn["entities"] if e["type"] in TYPES]
    return [(basic(name), kind) for name, kind in spans if basic(name)]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("corpus", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def main(corpus: Path) -> None:
    """Write text, lexicon, and the manifests of the sentences to speak."""
    from adapt.text.normalise import basic

    turns = read_turns(corpus)
    DATA.mkdir(exist_ok=True)
    training = dict.fromkeys(basic(turn["text"]) for turn in turns if turn["split"] == "train")
    (DATA / "text.txt").write_text("\n".join(filter(None, training)) + "\n", encoding="utf-8")
    names = dict.fromkeys(mention for turn in turns for mention in mentions(turn) if len(mention[0]) > 3)
    rows = "".join(f"{name}\t{kind}\n" for name, kind in sorted(names))
    (DATA / "lexicon.tsv").write_text(rows, encoding="utf-8")
    rng = random.Random(1)
    for split, count in SPOKEN.items():
        spoken = {}
        for turn in turns:
            sentence = basic(turn["text"])
            asked = turn["split"] == split and turn["speaker"] == "USER" and mentions(turn)
            if asked and 4 <= len(sentence.split()) <= 20 and sentence not in training:
                spoken[sentence] = [{"text": name, "type": kind} for name, kind in mentions(turn)]
        drawn = rng.sample(sorted(spoken), min(count, len(spoken)))
        rows = [
            {"id": (key := f"{split}-{number:03d}"), "text": s, "entities": spoken[s], "audio": f"audio/{key}.ogg"}
            for number, s in enumerate(drawn)
        ]
        lines = "".join(json.dumps({**row, "voice": VOICE}) + "\n" for row in rows)
        (DATA / f"{split}.jsonl").write_text(lines, encoding="utf-8")
        click.echo(f"{split}: {len(rows)} of {len(spoken)} sentences", err=True)
    click.echo(f"text: {len(training):,} sentences; lexicon: {len(names):,} names", err=True)


if __name__ == "__main__":
    main()
