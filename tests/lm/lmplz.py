"""What KenLM's own estimator makes of the music sentences, for the tests: `python tests/lm/lmplz.py [TEXT]`.

Needs `lmplz` on PATH: from the source of the kenlm package, `cmake -B build && make -C build lmplz`, with Boost. It
writes lmplz.json.gz. With TEXT, a file of sentences, it compares all n-grams of every case with ours instead.

lmplz puts one n-gram of each lower order, the last in its own order of words, into its counts of counts by how often
it was seen, not by its adjusted count (the end of AdjustCounts::Run); where one of the two is below 5, its discounts
may differ: in the music sentences as they stand, by up to 7e-4 in log10. From last to first they do not.
"""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from adapt.lm.arpa import Arpa, read_arpa
from adapt.lm.estimate import estimate, write_arpa
from adapt.model.bases import find_base

HERE = Path(__file__).parent
CASES = ["2", "3", "4", "5", "3 0 0 1", "4 0 1 2", "5 0 0 1"]  # order, and the thresholds of pruning
SHOWN = 300


def tokens(text: Path) -> list[list[int]]:
    lines = [line.lower() for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
    return AutoTokenizer.from_pretrained(find_base("tiny"))(lines[::-1], add_special_tokens=False)["input_ids"]


def lmplz(sentences: list[list[int]], case: str, folder: Path) -> Arpa:
    order, *prune = case.split()
    command = ["lmplz", "-o", order, "--discount_fallback", "-T", str(folder), "-S", "1G", "--arpa", str(folder / "a")]
    text = "".join(" ".join(map(str, s)) + "\n" for s in sentences)
    subprocess.run(
        [*command, *(["--prune", *prune] if prune else [])], input=text, text=True, check=True, capture_output=True
    )
    return read_arpa(folder / "a")


def figures(folder: Path) -> dict[str, list[dict]]:
    sentences, found = tokens(HERE.parents[1] / "recipes/music/text.txt"), {}
    for case in CASES:
        model, rng = lmplz(sentences, case, folder), random.Random(1)
        found[case] = []
        for grams, logs, backoffs in zip(model.tokens, model.logs, model.backoffs, strict=True):
            order = sorted(range(len(grams)), key=lambda i: grams[i].tolist())
            picked = sorted(rng.sample(order, min(SHOWN, len(order))))
            logs, backoffs = logs / np.log(10), backoffs / np.log(10)
            found[case].append(
                {
                    "size": len(grams),
                    "mean_log": round(float(logs.mean()), 8),
                    "mean_backoff": round(float(backoffs.mean()), 8),
                    "ngrams": grams[picked].tolist(),
                    "logs": np.round(logs[picked], 7).tolist(),
                    "backoffs": np.round(backoffs[picked], 7).tolist(),
                }
            )
    return found


def difference(ours: Arpa, theirs: Arpa) -> float:
    """The largest of any log10 probability or back-off; the n-grams must be the same."""
    worst = 0.0
    for k in range(len(theirs.tokens)):
        sort = [np.lexsort(model.tokens[k].T[::-1]) for model in (ours, theirs)]
        assert np.array_equal(ours.tokens[k][sort[0]], theirs.tokens[k][sort[1]])
        for name in ("logs", "backoffs"):
            a, b = (getattr(model, name)[k][order] for model, order in zip((ours, theirs), sort, strict=True))
            worst = max(worst, float(np.abs(a - b).max() / np.log(10)))
    return worst


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        if len(sys.argv) > 1:
            sentences = tokens(Path(sys.argv[1]))
            print(f"{sum(map(len, sentences)):,} tokens")
            for case in CASES:
                order, *prune = map(int, case.split())
                write_arpa(estimate(sentences, 1000, order, prune or (0,)), Path(scratch) / "ours")
                print(case, difference(read_arpa(Path(scratch) / "ours"), lmplz(sentences, case, Path(scratch))))
        else:
            found = json.dumps(figures(Path(scratch))).encode()
            (HERE / "lmplz.json.gz").write_bytes(gzip.compress(found, mtime=0))
