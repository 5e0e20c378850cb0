"""Write a test set with a list of names for each utterance, as an address book would provide them.

A list has the names that the utterance mentions, and others for each of these: `phrases` of `adapt transcribe`.

python recipes/music/distractors.py > recipes/music/listed.jsonl
python recipes/music/distractors.py --others 100 recipes/music/natural/test.jsonl > recipes/music/natural/listed.jsonl
adapt transcribe recipes/music/natural/listed.jsonl --base small --names both --out listed-both.jsonl
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import click

from adapt.text.lexicon import read_lexicon
from adapt.text.manifest import read_manifest

HERE = Path(__file__).parent


@click.command(help=__doc__.splitlines()[0])
@click.argument("manifest", type=click.Path(path_type=Path, exists=True), default=HERE / "test.jsonl")
@click.option("--others", default=20, show_default=True, help="Names in a list for each that is mentioned.")
def main(manifest: Path, others: int) -> None:
    rng = random.Random(1)
    entries = read_lexicon(HERE.parents[1] / "lexicons/music.tsv").entries
    names = [entry.spoken[0] if entry.spoken else entry.written for entry in entries]  # as the decoder writes it
    for utterance in read_manifest(manifest):
        said = [entity.text for entity in utterance.entities or ()]
        unsaid = [name for name in names if name.lower() not in said]
        phrases = sorted({*said, *rng.sample(unsaid, others * len(said))})
        audio = utterance.audio.path.relative_to(manifest.parent).as_posix()
        row = {"id": utterance.id, "audio": audio, "text": utterance.text, "phrases": phrases}
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
