from __future__ import annotations

import random
from itertools import groupby

from adapt.text.channel import learn

TEXTS = ["call the clinic", "cancel it", "the coffee", "all of it", "nine candles"] * 10


def collapsed(path: str) -> str:
    return "".join(symbol for symbol, _ in groupby(path) if symbol != "_")


def test_what_is_heard_without_a_mistake_is_played_without_one():
    spoken = ["".join(f"_{letter}{letter}" for letter in text) for text in TEXTS]
    channel = learn(zip(spoken, TEXTS, strict=True))
    for text in ("the candle", "call it"):
        path = channel.play(text, random.Random(1))
        assert collapsed(path) == text
        assert 2 * len(text) <= len(path) <= 3 * len(text)


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
    channel = learn(zip(heard, TEXTS * 10, strict=True))
    played = [collapsed(channel.play("cancel the coffee", random.Random(seed))) for seed in range(500)]
    assert 0.63 < sum(path.count("k") for path in played) / 1_500 < 0.77
    lost = [("h " in collapsed(path)) for path, text in zip(heard, TEXTS * 10, strict=True) if "the " in text]
    assert abs(sum("h " in path for path in played) / 500 - sum(lost) / len(lost)) < 0.07
    assert sum("sth" in path for path in played) == 500


def test_letters_that_were_never_said_pass_and_silence_teaches_nothing():
    channel = learn([("___", "no"), ("n_o", ""), ("", "")])
    assert channel.play("xyz", random.Random(1)) == "xyz"
    assert channel.play("no", random.Random(1)) == ""
