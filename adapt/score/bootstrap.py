"""Bootstrap over utterances: confidence intervals of a figure, and the p-value of a paired comparison."""

from __future__ import annotations

import numpy as np

SIGNIFICANT = 0.05  # a difference is significant if its p-value is below this
# Utterances that intervals and p-values need. In simulations with utterances of unlike difficulty and no difference
# between two systems, 95 % intervals held the true WER in 54 % of the sets of 2 utterances, 81 % of those of 5, 89 % of
# those of 10 and 92 % of those of 30; and 38, 14, 7 and 6 % of the comparisons were significant.
ENOUGH = 30


def resample(stats: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Column sums of bootstrap samples: (utterances, columns) -> (resamples, columns).

    Each sample draws as many utterances as the set has, with replacement. Columns of several systems side by side are
    drawn together; that makes a comparison paired.
    """
    generator = np.random.default_rng(seed)
    # Many utterances have the same counts. It is enough to draw how often each distinct row occurs in a sample.
    distinct, occurrences = np.unique(stats, axis=0, return_counts=True)
    shares = occurrences / len(stats)
    sums = np.empty((resamples, stats.shape[1]))
    for i in range(resamples):
        sums[i] = generator.multinomial(len(stats), shares) @ distinct
    return sums


def ratio(errors: float, total: float) -> float | None:
    """errors / total; None if the total is 0."""
    return float(errors) / float(total) if total else None


def _ratios(errors: np.ndarray, total: np.ndarray) -> np.ndarray:
    """errors / total of each resample; NaN if the total is 0."""
    return np.divide(errors, total, out=np.full(errors.shape, np.nan), where=total > 0)


def interval(errors: np.ndarray, total: np.ndarray) -> tuple[float, float] | None:
    """95 % percentile interval of errors / total over resamples; None if every total is 0."""
    if not (ratios := _ratios(errors, total)[total > 0]).size:
        return None
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def p_value(base: tuple[np.ndarray, np.ndarray], system: tuple[np.ndarray, np.ndarray], difference: float) -> float:
    """Two-sided p-value of a paired bootstrap: how often resampling alone makes such a difference.

    base, system: (errors, total) over the same resamples. difference: that of the two ratios on the whole set. The
    p-value covers the choice of utterances alone; it does not say how large the difference is.
    """
    differences = _ratios(*system) - _ratios(*base)
    differences = differences[~np.isnan(differences)]
    # A small tolerance, since sums of floats that are equal on paper may differ in the last digit.
    as_far = np.abs(differences - differences.mean()) >= abs(difference) - 1e-12 if differences.size else []
    return float(np.sum(as_far) + 1) / (len(differences) + 1)
