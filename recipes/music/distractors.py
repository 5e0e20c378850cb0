"""Write the test set with a list of names for each utterance, as an address book would provide them.

A list has the names that the utterance mentions, and 20 others for each of these.

python recipes/music/distractors.py > recipes/music/listed.jsonl
adapt transcribe recipes/music/listed.jsonl --boost 0.6 --out listed.jsonl
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from adapt.text.lexicon import read_lexicon
from adapt.text.manifest import read_manifest

HERE = Path(__file__).parent
OTHERS = 20


def main() -> None:
    rng = random.Random(1)
    entries = read_lexicon(HERE.parents[1] / "lexicons/music.tsv").entries
    names = [entry.spoken[0] if entry.spoken else entry.written for entry in entries]  # as the decoder writes it
    for utterance in read_manifest(HERE / "test.jsonl"):
        said = [entity.text for entity in utterance.entities or ()]
        others = [name for name in names if name.lower() not in said]
        phrases = sorted({*said, *rng.sample(others, OTHERS * len(said))})
        audio = utterance.audio.path.relative_to(HERE).as_posix()
        row = {"id": utterance.id, "audio": audio, "text": utterance.text, "phrases": phrases}
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
