"""What an encoder that transcribes mishears: pairs of words, found in transcripts, and texts with such errors.

The pairs of a base travel with it, so that its errors can be simulated without any audio.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from rapidfuzz.distance import Levenshtein

from adapt.errors import ModelError
from adapt.model.first_pass import MISHEARINGS
from adapt.train.unit_selection import UnitInventory, build_inventory

MOST = 3  # words of a pair; longer ones are too different to be aligned
UNLIKE = 0.75  # share of edited letters from which on the words heard do not stand for those said

Pair = tuple[str, str]


def mishearings(transcripts: Iterable[Pair]) -> list[Pair]:
    """Pairs of (heard, said) of the words in which transcripts of those pairs differ.

    Words without a counterpart and more than MOST words are left out, and so are numbers in digits, which have no
    letters to align.

    >>> mishearings([("play moriah kerry", "play mariah carey"), ("all of it", "all it"), ("9 lives", "nine lives")])
    [('moriah kerry', 'mariah carey')]
    """
    pairs = []
    for heard, said in ((heard.split(), said.split()) for heard, said in transcripts):
        for edit in Levenshtein.opcodes(said, heard):
            written = " ".join(heard[edit.dest_start : edit.dest_end])
            spoken = " ".join(said[edit.src_start : edit.src_end])
            short = max(edit.dest_end - edit.dest_start, edit.src_end - edit.src_start) <= MOST
            alike = short and Levenshtein.normalized_distance(written, spoken) < UNLIKE
            if edit.tag == "replace" and alike and not any(map(str.isdigit, written)):
                pairs.append((written, spoken))
    return pairs


def save_mishearings(folder: Path, pairs: Sequence[Pair]) -> None:
    """Write pairs of (heard, said) into the folder of a base."""
    lines = ",\n".join(json.dumps(pair, ensure_ascii=False) for pair in sorted(pairs))
    (folder / MISHEARINGS).write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def load_mishearings(folder: Path) -> list[Pair]:
    """The pairs of (heard, said) in the folder of a base; [] if it has none. Raises ModelError for a broken file."""
    path = folder / MISHEARINGS
    if not path.exists():
        return []
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(word, str) for heard, said in pairs for word in (heard, said)):
            return [(heard, said) for heard, said in pairs]
    except (ValueError, TypeError, OSError, RecursionError):
        pass
    raise ModelError(f"{path}: not a JSON list of pairs of words (heard, said); copy the base again")


def mishearing_inventory(pairs: Iterable[Pair]) -> UnitInventory | None:
    """The inventory from which misheard words are put together; None for no pairs.

    Its embeddings are characters (their codes).
    """
    rows = [(heard, said, torch.tensor(list(map(ord, heard)), dtype=torch.long)) for heard, said in pairs]
    return build_inventory(rows) if rows else None


def misheard(text: str, inventory: UnitInventory | None, share: float, rng: random.Random) -> str:
    """What the encoder might transcribe for a text: some of its words as the inventory has their letters.

    share: mean share of these words; that of a sentence is drawn between 0 and twice the mean. None: the text itself.

    >>> misheard("mariah", mishearing_inventory([("moriah", "mariah"), ("kerry", "carey")]), 100, random.Random(1))
    'moriah'
    """
    if inventory is None:
        return text
    share *= 2 * rng.random()
    words = [
        "".join(map(chr, inventory.select(word, rng).tolist())) if rng.random() < share else word
        for word in text.split()
    ]
    return " ".join(" ".join(words).split())
