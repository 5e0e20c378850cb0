from __future__ import annotations

import numpy as np
import pytest

from adapt.score.bootstrap import interval, p_value, resample


def test_bootstrap_finds_what_is_there():
    generator = np.random.default_rng(0)
    words = np.full(10_000, 10)
    base = generator.binomial(10, 0.30, 10_000)
    same = base[generator.permutation(10_000)]
    better = np.maximum(base - (generator.random(10_000) < 0.05), 0)
    sums = resample(np.column_stack([base, same, better, words]), 1000, seed=1)
    low, high = interval(sums[:, 0], sums[:, 3])
    # The normal approximation of the same interval: sd of a binomial of 10 over 10,000 utterances.
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.3 * 0.7 / 100_000), rel=0.1)
    (b, s, n), w = sums[:, :3].T, sums[:, 3]
    assert p_value((b, w), (s, w), 0.0) == 1.0
    assert p_value((b, w), (n, w), float((better - base).sum() / words.sum())) == pytest.approx(1 / 1001)
