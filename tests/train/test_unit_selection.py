from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import groupby

import torch

from adapt.train.unit_selection import build_inventory

TEXTS = ["call the clinic", "cancel it", "the coffee", "all of it", "nine candles"] * 10


def selection(paths: Sequence[str], texts: Sequence[str]) -> Callable[[str, int], str]:
    """What selects units for a target with a seed, and gives the CTC symbols of their frames.

    The audio embeddings of the inventory are the numbers of the frames.
    """
    ends = [sum(map(len, paths[: i + 1])) for i in range(len(paths))]
    embeddings = [torch.arange(end - len(path), end) for path, end in zip(paths, ends, strict=True)]
    inventory, symbols = build_inventory(zip(paths, texts, embeddings, strict=True)), "".join(paths)
    return lambda text, seed: "".join(symbols[frame] for frame in inventory.select(text, random.Random(seed)).tolist())


def collapsed(path: str) -> str:
    return "".join(symbol for symbol, _ in groupby(path) if symbol != "_")


def test_paths_without_errors_give_a_selection_without_errors():
    select = selection(["".join(f"_{letter}{letter}" for letter in text) + "_____" for text in TEXTS], TEXTS)
    for text in ("the candle", "call it"):
        path = select(text, 1)
        assert collapsed(path) == text
        # Silence is where it was in the recordings: before the first letter, after the last.
        assert path.startswith("_") and "___" not in path.rstrip("_")
    assert select("call it", 1).endswith("t_____")


def test_acoustic_errors_are_as_frequent_in_the_selection_as_in_the_recordings():
    rng = random.Random(2)
    # The path has k for seven of ten c, no symbol for half of the e, and an s before every t.
    paths = [
        "".join(
            {"c": "k" if rng.random() < 0.7 else "c", "e": "" if rng.random() < 0.5 else "e", "t": "st"}.get(c, c) + "_"
            for c in text
        )
        for text in TEXTS * 10
    ]
    select = selection(paths, TEXTS * 10)
    selected = [collapsed(select("cancel the coffee", seed)) for seed in range(500)]
    assert 0.63 < sum(path.count("k") for path in selected) / 1_500 < 0.77, "substitutions"
    deleted = [("h " in collapsed(path)) for path, text in zip(paths, TEXTS * 10, strict=True) if "the " in text]
    assert abs(sum("h " in path for path in selected) / 500 - sum(deleted) / len(deleted)) < 0.07, "deletions"
    assert sum("sth" in path for path in selected) == 500, "insertions"


def test_an_embedding_of_several_frames_belongs_to_the_letter_of_its_first_frame():
    inventory = build_inventory([("aaabbb_c", "abc", torch.arange(4))], stack=2)
    selected = [inventory.select(text, random.Random(1)).tolist() for text in ("abc", "a", "b", "c")]
    assert selected == [[0, 1, 2, 3], [0, 1], [2, 3], []]


def test_letters_without_units_are_left_out():
    select = selection(["___", "n_o"], ["no", ""])
    assert select("xyz", 1) == select("no", 1) == ""
