"""Estimates equal those of KenLM's lmplz."""

from __future__ import annotations

import gzip
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from adapt.errors import DataError
from adapt.lm.arpa import read_arpa
from adapt.lm.estimate import estimate, write_arpa

HERE = Path(__file__).parent


@pytest.mark.parametrize("case", ["2", "3", "4", "5", "3 0 0 1", "4 0 1 2", "5 0 0 1"])
def test_the_estimate_is_that_of_lmplz(sentences, case, tmp_path):
    """`lmplz.json.gz` holds sizes, means and some n-grams of each order of lmplz's models (lmplz.py)."""
    theirs = json.loads(gzip.decompress((HERE / "lmplz.json.gz").read_bytes()))[case]
    order, *prune = map(int, case.split())
    write_arpa(estimate(sentences, 1000, order, prune or (0,)), tmp_path / "ours.arpa")
    ours = read_arpa(tmp_path / "ours.arpa")
    assert [len(tokens) for tokens in ours.tokens] == [level["size"] for level in theirs]
    for tokens, logs, backoffs, level in zip(ours.tokens, ours.logs, ours.backoffs, theirs, strict=True):
        rows = {tuple(row): i for i, row in enumerate(tokens.tolist())}
        picked = [rows[tuple(gram)] for gram in level["ngrams"]]
        np.testing.assert_allclose(logs[picked] / math.log(10), level["logs"], atol=1e-5)
        np.testing.assert_allclose(backoffs[picked] / math.log(10), level["backoffs"], atol=1e-5)
        assert np.mean(logs) / math.log(10) == pytest.approx(level["mean_log"], abs=1e-6)
        assert np.mean(backoffs) / math.log(10) == pytest.approx(level["mean_backoff"], abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (([], 10), "no token"),
        (([[]], 10), "no token"),
        (([[10]], 10), "outside the vocabulary"),
        (([[1]], 10, 7), "not in 1 to 6"),
        (([[1]], 10, 3, (1, 0)), "falls"),
    ],
)
def test_impossible_arguments_are_errors(arguments, problem):
    with pytest.raises(DataError, match=problem):
        estimate(*arguments)


@pytest.mark.skipif(not shutil.which("lmplz"), reason="lmplz is not on PATH")
def test_the_stored_figures_are_lmplzs(tmp_path):
    from tests.lm.lmplz import figures

    assert figures(tmp_path) == json.loads(gzip.decompress((HERE / "lmplz.json.gz").read_bytes()))
