from __future__ import annotations

import random
from itertools import groupby

import torch

from adapt.train.unit_selection import build_inventory

TEXTS = ["call the clinic", "cancel it", "the coffee", "all of it", "nine candles"] * 10


def taught(paths, texts):
    """A inventory whose audio embeddings are numbers of frames, and how to read what it plays as a path."""
    ends = [sum(map(len, paths[: i + 1])) for i in range(len(paths))]
    slots = [torch.arange(end - len(path), end) for path, end in zip(paths, ends, strict=True)]
    inventory, spoken = build_inventory(zip(paths, texts, slots, strict=True)), "".join(paths)
    return lambda text, seed: "".join(spoken[frame] for frame in inventory.select(text, random.Random(seed)).tolist())


def collapsed(path: str) -> str:
    return "".join(symbol for symbol, _ in groupby(path) if symbol != "_")


def test_what_is_heard_without_a_mistake_is_played_without_one():
    play = taught(["".join(f"_{letter}{letter}" for letter in text) + "_____" for text in TEXTS], TEXTS)
    for text in ("the candle", "call it"):
        path = play(text, 1)
        assert collapsed(path) == text
        # Silence stands where it stood: before the first letter, after the last.
        assert path.startswith("_") and "___" not in path.rstrip("_")
    assert play("call it", 1).endswith("t_____")


def test_mistakes_are_played_as_often_as_they_were_heard():
    rng = random.Random(2)
    # A c is heard as k in seven of ten cases, an e not at all in half of them, and s is said before every t.
    heard = [
        "".join(
            {"c": "k" if rng.random() < 0.7 else "c", "e": "" if rng.random() < 0.5 else "e", "t": "st"}.get(c, c) + "_"
            for c in text
        )
        for text in TEXTS * 10
    ]
    play = taught(heard, TEXTS * 10)
    played = [collapsed(play("cancel the coffee", seed)) for seed in range(500)]
    assert 0.63 < sum(path.count("k") for path in played) / 1_500 < 0.77
    lost = [("h " in collapsed(path)) for path, text in zip(heard, TEXTS * 10, strict=True) if "the " in text]
    assert abs(sum("h " in path for path in played) / 500 - sum(lost) / len(lost)) < 0.07
    assert sum("sth" in path for path in played) == 500


def test_stacked_slots_belong_to_the_letter_that_begins_them():
    slots = torch.arange(4)
    inventory = build_inventory([("aaabbb_c", "abc", slots)], stack=2)
    played = [inventory.select(text, random.Random(1)).tolist() for text in ("abc", "a", "b", "c")]
    assert played == [[0, 1, 2, 3], [0, 1], [2, 3], []]


def test_letters_that_were_never_heard_are_left_out():
    play = taught(["___", "n_o"], ["no", ""])
    assert play("xyz", 1) == play("no", 1) == ""
