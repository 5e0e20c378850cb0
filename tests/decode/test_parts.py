"""What a new part of fusion needs: a class in PARTS, and a field of `Weights` with its key."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from adapt.decode import parts
from adapt.decode.hypothesis import Hypothesis
from adapt.decode.parts import LENGTH, PARTS, fused_score, label
from adapt.decode.weights import Weights
from adapt.recipe.domain import FusionWeights
from adapt.tune import search
from adapt.tune.counts import DevCounts


def test_weights_and_recipe_have_the_keys_of_the_parts():
    keys = {part.key for part in PARTS}
    assert len(keys) == len(PARTS), "two parts have one key"
    assert {field.name for field in dataclasses.fields(Weights)} == keys, "the fields of Weights"
    section = {field.name for field in dataclasses.fields(FusionWeights)} - {"ilm_slot"}
    assert section == keys - {"ctc"}, "the keys of the recipe's section; the weight of CTC is in `transcribe`"


def test_the_score_is_the_same_for_floats_and_arrays():
    rng = np.random.default_rng(1)
    weights = Weights(lm=0.2, source=0.1, ilm=0.15, boost=0.6, reward=0.5, ctc=0.1)
    model, tokens = -10 * rng.random(50), rng.integers(0, 9, 50)
    totals = {part.key: -rng.random(50) for part in PARTS if part.kind != LENGTH}
    together = fused_score(model, tokens, totals, weights)
    for i, found in enumerate(together.tolist()):
        own = {key: float(values[i]) for key, values in totals.items()}
        hypothesis = Hypothesis("", int(tokens[i]), float(model[i]), own)
        assert hypothesis.score(weights) == found, "floats and arrays differ"
        fused = hypothesis.model + 0.2 * own["lm"] - 0.1 * own["source"] - 0.15 * own["ilm"] + 0.6 * own["boost"]
        fused += 0.1 * own["ctc"] + 0.5 * hypothesis.tokens
        assert found == pytest.approx(fused / (hypothesis.tokens + 1)), "the formula"


class Prosody(parts.Part):
    """A part that does not exist."""

    key, label, sign = "prosody", "prosody", -1
    grid = (0.5, 1.5)
    start = 0.5


@dataclasses.dataclass(frozen=True)
class MoreWeights(Weights):
    prosody: float = 0.0


def test_a_new_part_is_in_label_score_and_grid(monkeypatch):
    monkeypatch.setattr(parts, "PARTS", (*PARTS, Prosody))
    monkeypatch.setattr(search, "PARTS", (*PARTS, Prosody))
    monkeypatch.setattr(search, "Weights", MoreWeights)
    weights = MoreWeights(lm=0.2, prosody=0.5)
    assert label(weights) == "LM + prosody", "the label"
    hypothesis = Hypothesis("play it", 2, -3.0, {"lm": -5.0, "prosody": 4.0})
    assert hypothesis.score(weights) == pytest.approx((-3.0 - 0.2 * 5.0 - 0.5 * 4.0) / 3), "the score"
    assert hypothesis.to_json()["prosody"] == 4.0, "the line of an n-best list"
    assert search.grid(["lm", "prosody"])[:2] == [MoreWeights(lm=0.05, prosody=w) for w in (0.5, 1.5)], "the grid"

    def decode(weights: MoreWeights) -> list[list[Hypothesis]]:
        nbest = [Hypothesis("wrong", 1, -2.0, {"prosody": 1.0}), Hypothesis("right", 1, -2.9, {"prosody": 0.1})]
        return [sorted(nbest, key=lambda h: -h.score(weights))]

    tuned = search.search(decode, [lambda text: DevCounts(int(text == "wrong"), 1, 0, 0, 0)], ["prosody"], "base")
    assert tuned.weights["prosody"] == 1.5 and tuned.counts.errors == 0, "the search"


def test_labels_and_scores_need_no_torch():
    program = "import sys, adapt.decode.job, adapt.decode.hypothesis; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
