"""Is a difference more than chance: the bootstrap, and the signature that travels with a number."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from adapt.text.lexicon import Lexicon


def resample(stats: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Column sums of bootstrap samples: (utterances, columns) -> (resamples, columns).

    Each sample draws as many utterances as there are, with replacement. Columns of several systems side by
    side are drawn together, which is what makes a comparison paired.
    """
    generator = np.random.default_rng(seed)
    # Many utterances have the same counts: how often each kind was drawn says all, and no utterance is scored twice.
    kinds, occurrences = np.unique(stats, axis=0, return_counts=True)
    shares = occurrences / len(stats)
    sums = np.empty((resamples, stats.shape[1]))
    for i in range(resamples):
        sums[i] = generator.multinomial(len(stats), shares) @ kinds
    return sums


def ratio(errors: float, total: float) -> float | None:
    """errors / total, None where there is nothing to divide by."""
    return float(errors) / float(total) if total else None


def _ratios(errors: np.ndarray, total: np.ndarray) -> np.ndarray:
    return np.divide(errors, total, out=np.full(errors.shape, np.nan), where=total > 0)


def interval(errors: np.ndarray, total: np.ndarray) -> tuple[float, float] | None:
    """95 % percentile interval of errors / total over resamples; None if no resample has a total."""
    if not (ratios := _ratios(errors, total)[total > 0]).size:
        return None
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def p_value(base: tuple[np.ndarray, np.ndarray], system: tuple[np.ndarray, np.ndarray], seen: float) -> float:
    """Two-sided p of a paired bootstrap: how often the difference strays from its mean by as much as `seen`.

    `base` and `system` are (errors, total) over the same resamples, `seen` the difference on the whole set.
    It says how easily chance in the choice of utterances makes such a gap, not how large the gap is.
    """
    differences = _ratios(*system) - _ratios(*base)
    differences = differences[~np.isnan(differences)]
    # A hair of slack: sums of floats that are equal on paper may differ in the last digit.
    strays = np.abs(differences - differences.mean()) >= abs(seen) - 1e-12 if differences.size else []
    return float(np.sum(strays) + 1) / (len(differences) + 1)


def signature(
    normaliser: str,
    lexicon: Lexicon | None,
    utterances: Sequence[int],
    resamples: int,
    seed: int,
    convention: str = "adapt",
    given: Sequence[int] | None = None,
) -> str:
    """What a number needs in order to be compared; `utterances` counts them set by set.

    A `convention` other than ours is named, and so is lenience: `given` counts the references, scored or not.

    >>> signature("basic", Lexicon("music", "3f9c1e", ()), [300, 200], 1000, 1).rpartition("|")[0]
    'wer|norm:basic|lex:music@3f9c1e|utts:300+200|bs:1000|seed:1'
    >>> signature("none", None, [290], 1000, 1, "is21", [300]).rpartition("|")[0]
    'wer|conv:is21|norm:none|lex:none|utts:290|lenient:of 300|bs:1000|seed:1'
    """
    try:
        release = version("adapt-asr")
    except PackageNotFoundError:
        release = "source"
    parts = ["wer", *([] if convention == "adapt" else [f"conv:{convention}"]), f"norm:{normaliser}"]
    parts += [f"lex:{lexicon.name}@{lexicon.sha}" if lexicon else "lex:none"]
    parts += [f"utts:{'+'.join(map(str, utterances))}"]
    parts += [] if given is None else [f"lenient:of {'+'.join(map(str, given))}"]
    return "|".join([*parts, f"bs:{resamples}", f"seed:{seed}", f"v:{release}"])
