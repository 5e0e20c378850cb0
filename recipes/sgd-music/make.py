"""Prepare the data of this recipe from the Schema-Guided Dialogue corpus, whose sentences are not part of the package.

    python recipes/sgd-music/make.py text SGD/derived_music_media.jsonl.gz
    voices-env/bin/python recipes/sgd-music/make.py speak VOICES

The corpus file has a turn a line: `id`, `split`, `speaker`, `text`, and `entities` with `type`, `start` and `end`.
`text` writes the text of the training dialogues, the lexicon of all names, and sentences of users from the development
and test dialogues. `speak` has them read by joe, a voice of `recipes/music/natural/speak.py`, which says how to
get it.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import sys
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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Prepare the data of this recipe."""


@main.command()
@click.argument("corpus", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def text(corpus: Path) -> None:
    """Write text, lexicon, and the sentences to speak."""
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
        rows = [{"id": f"{split}-{number:03d}", "text": s, "entities": spoken[s]} for number, s in enumerate(drawn)]
        (DATA / f"{split}.sentences.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
        click.echo(f"{split}: {len(rows)} of {len(spoken)} sentences", err=True)
    click.echo(f"text: {len(training):,} sentences; lexicon: {len(names):,} names", err=True)


@main.command()
@click.argument("voices", type=click.Path(path_type=Path, exists=True, file_okay=False))
def speak(voices: Path) -> None:
    """Speak the sentences that have no audio file, and write the manifests."""
    import soundfile

    sys.path.insert(0, str(HERE.parent / "music/natural"))
    from speak import RATE, Speakers

    speakers = Speakers(voices)
    (DATA / "audio").mkdir(exist_ok=True)
    for split in SPOKEN:
        rows = [
            json.loads(line) for line in (DATA / f"{split}.sentences.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for row in rows:
            row |= {"audio": f"audio/{row['id']}.ogg", "voice": VOICE}
            if not (DATA / row["audio"]).exists():
                samples = speakers.say(row["text"], row["voice"], random.Random(row["id"]).uniform(0.9, 1.15))
                soundfile.write(
                    DATA / row["audio"], samples, RATE, format="OGG", subtype="OPUS", compression_level=0.95
                )
        (DATA / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
