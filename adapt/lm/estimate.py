"""N-gram estimation: interpolated modified Kneser-Ney, in numpy, equal to KenLM's `lmplz`.

The smoothing is that of Chen and Goodman, "An empirical study of smoothing techniques for language modeling", 1999,
section 3. Adjusted counts and the mass of pruned n-grams follow Heafield et al., "Scalable modified Kneser-Ney", 2013.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from adapt.errors import DataError

MAX_ORDER = 6
FALLBACK = (0.5, 1.0, 1.5)  # discounts if they cannot be computed, as with lmplz's --discount_fallback


@dataclass
class Ngrams:
    """The n-grams of one order, as arrays of one length.

    tokens: the last token. context, suffix: the rows, in the order below, of the n-gram without its last and without
    its first token. begins: whether the n-gram begins with `<s>`. probability: interpolated. backoff: the mass that an
    n-gram, as a context, leaves to the order below. kept: False if pruned; the row of a pruned n-gram remains, because
    higher orders refer to it.
    """

    tokens: np.ndarray
    context: np.ndarray
    suffix: np.ndarray
    count: np.ndarray
    begins: np.ndarray
    probability: np.ndarray = field(default_factory=lambda: np.empty(0))
    backoff: np.ndarray = field(default_factory=lambda: np.empty(0))
    kept: np.ndarray = field(default_factory=lambda: np.empty(0, bool))


@dataclass(frozen=True)
class Model:
    """An n-gram model of orders 1 to n over `vocabulary` token ids; `<s>` and `</s>` have the next two ids."""

    vocabulary: int
    orders: tuple[Ngrams, ...]
    unknown: float  # probability of <unk>, and thus of every unseen token

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of n-grams of each order that an ARPA lists, `<unk>` included."""
        return tuple(int(level.kept.sum()) + (k == 0) for k, level in enumerate(self.orders))


def estimate(sentences: Sequence[Sequence[int]], vocabulary: int, order: int = 4, prune: Sequence[int] = (0,)) -> Model:
    """Count and smooth sentences of token ids below `vocabulary`.

    prune: a threshold for each order; n-grams with this count or less are left out. The last threshold holds for all
    higher orders, and unigrams always stay. Thresholds must not fall from one order to the next, because an n-gram
    needs its context. Raises DataError for text without a token, for an id outside the vocabulary, and for an
    impossible order or thresholds.

    >>> model = estimate([[0, 1], [0, 1], [0, 0]], vocabulary=3, order=2)
    >>> model.sizes
    (5, 5)
    """
    thresholds = [*prune, *[prune[-1]] * (order - len(prune))][:order]
    if not 1 <= order <= MAX_ORDER:
        raise DataError(f"order: {order} is not in 1 to {MAX_ORDER}; give 3 or 4, which suit most text")
    if min(thresholds) < 0 or sorted(thresholds) != thresholds:
        raise DataError(
            f"prune: {' '.join(map(str, prune))} falls or is negative; give thresholds that rise, e.g. 0 0 1"
        )
    levels = _count(sentences, vocabulary, order)
    unknown = _smooth_unigrams(levels[0], _adjusted_counts(levels, 1), vocabulary)
    for k in range(2, order + 1):
        _smooth(levels[k - 1], levels[k - 2], _adjusted_counts(levels, k), thresholds[k - 1])
    levels[-1].backoff = np.ones(len(levels[-1].tokens))
    return Model(vocabulary, tuple(levels), float(unknown))


def _adjusted_counts(levels: Sequence[Ngrams], order: int) -> np.ndarray:
    """The counts to smooth: below the highest order, the number of different tokens before an n-gram.

    An n-gram that begins a sentence keeps its count.
    """
    level = levels[order - 1]
    if order == len(levels):
        return level.count
    preceded = np.bincount(levels[order].suffix, minlength=len(level.tokens))
    return np.where(level.begins, level.count, preceded)


def _smooth_unigrams(level: Ngrams, adjusted: np.ndarray, vocabulary: int) -> float:
    """Set the probabilities of the unigrams, and return that of `<unk>`. The mass of the discounts is spread evenly."""
    adjusted = adjusted.copy()
    adjusted[vocabulary] = 0  # <s> is never predicted
    level.kept = adjusted > 0
    context, all_kept = np.zeros(len(adjusted), np.int64), np.ones(len(adjusted), bool)
    discounted, _, left = _discounted(adjusted, context, 1, all_kept)
    unknown = left[0] / (np.count_nonzero(level.kept) + 1)
    level.probability = discounted + unknown
    level.kept[vocabulary] = True
    return unknown


def _smooth(level: Ngrams, below: Ngrams, adjusted: np.ndarray, threshold: int) -> None:
    """Set the probabilities of an order above 1, and the back-offs of the order below."""
    level.kept = level.count > threshold
    discounted, left_by_context, left = _discounted(adjusted, level.context, len(below.tokens), level.kept)
    level.probability = discounted + left_by_context * below.probability[level.suffix]
    below.backoff = left


def _discounted(
    adjusted: np.ndarray, context: np.ndarray, contexts: int, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Discounted probabilities of n-grams, and the mass that their contexts leave to the order below.

    The mass is returned twice: for the context of each n-gram, and for each of the `contexts`. A pruned n-gram leaves
    all its mass, and a kept one its discount.
    """
    discount = _discounts(adjusted)[np.minimum(adjusted, 3)]
    total = np.bincount(context, adjusted, contexts)
    freed = np.bincount(context, np.where(kept, discount, adjusted), contexts)
    left = np.divide(freed, total, out=np.ones(contexts), where=total > 0)
    return np.maximum(adjusted - discount, 0) / total[context], left[context], left


def _count(sentences: Sequence[Sequence[int]], vocabulary: int, order: int) -> list[Ngrams]:
    """The n-grams of each order with their counts, in sentences from `<s>` to `</s>`.

    Raises DataError for text without tokens and for an id outside of the vocabulary.
    """
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences)) + 2
    if not len(lengths) or lengths.max() <= 2:
        raise DataError("text: holds no tokens; give text of the domain")
    begin, end = vocabulary, vocabulary + 1
    tokens = np.empty(lengths.sum(), np.int64)
    last = np.cumsum(lengths) - 1
    first = last - lengths + 1
    inside = np.ones(len(tokens), bool)
    inside[first] = inside[last] = False
    tokens[first], tokens[last] = begin, end
    tokens[inside] = np.fromiter(itertools.chain.from_iterable(sentences), np.int64, len(tokens) - 2 * len(lengths))
    if tokens[inside].min() < 0 or tokens[inside].max() >= vocabulary:
        raise DataError(f"text: a token id is outside the vocabulary of {vocabulary:,}; use the decoder's tokenizer")
    position = (np.arange(len(tokens)) - np.repeat(first, lengths)).astype(np.int32)

    width = vocabulary + 2
    zeros = np.zeros(width, np.int32)
    unigram_counts = np.bincount(tokens[position > 0], minlength=width).astype(np.int32)
    levels = [Ngrams(np.arange(width, dtype=np.int32), zeros, zeros, unigram_counts, np.zeros(width, bool))]
    row = tokens  # the row, in the order below, of the n-gram that ends at each position
    for k in range(2, order + 1):
        ends = np.flatnonzero(position >= k - 1)
        keys = row[ends - 1] * width + tokens[ends]
        distinct, place, number, counts = _distinct(keys)
        del keys
        begins = position[ends[place]] == k - 1
        last, context, suffix = distinct % width, distinct // width, row[ends[place]]
        levels.append(Ngrams(*(values.astype(np.int32) for values in (last, context, suffix, counts)), begins))
        row = np.full(len(tokens), -1, np.int64)
        row[ends] = number
    return levels


def _distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distinct keys in order, a place of each, the number of each key among the distinct ones, and their counts.

    `np.unique` returns the same, and needs more memory for it.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    counts = np.diff(starts, append=len(keys))
    number = np.empty(len(keys), np.int32)
    number[order] = np.repeat(np.arange(len(starts), dtype=np.int32), counts)
    return ordered[starts], order[starts], number, counts


def _discounts(counts: np.ndarray) -> np.ndarray:
    """The discounts of counts of 0, 1, 2, and 3 or more (Chen and Goodman, equation 26)."""
    n = np.bincount(np.minimum(counts, 5), minlength=6)[:5].astype(float)
    if (n[1:4] > 0).all():
        y = n[1] / (n[1] + 2 * n[2])
        discounts = np.array([j - (j + 1) * y * n[j + 1] / n[j] for j in (1, 2, 3)])
        if (discounts >= 0).all() and (discounts <= (1, 2, 3)).all():
            return np.array([0, *discounts])
    return np.array([0, *FALLBACK])


def write_arpa(model: Model, path: str | os.PathLike, symbols: Sequence[str] | None = None) -> None:
    """Write an ARPA file, and create its folder if necessary.

    symbols: the word of each token id; None: the ids themselves, as decimal numbers.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    words = [str(i) for i in range(model.vocabulary)] if symbols is None else list(symbols)
    words = np.array([*words, "<s>", "</s>"], dtype=object)
    names, highest = words, len(model.orders)
    with open(path, "w", encoding="utf-8") as out:
        out.write("\\data\\\n")
        out.writelines(f"ngram {k}={size}\n" for k, size in enumerate(model.sizes, 1))
        for k, level in enumerate(model.orders, 1):
            rows = np.flatnonzero(level.kept)
            if k > 1:
                context, names = names, np.full(len(level.tokens), None)
                names[rows] = context[level.context[rows]] + " " + words[level.tokens[rows]]
            # <s> has no probability, but the format requires one.
            probabilities = np.where((k == 1) & (level.tokens == model.vocabulary), 1.0, level.probability)[rows]
            logs = np.log10(probabilities).tolist()
            out.write(f"\n\\{k}-grams:\n")
            if k == 1:
                out.write(f"{math.log10(model.unknown):.8g}\t<unk>" + ("\t0\n" if highest > 1 else "\n"))
            if k < highest:
                backoff = np.where(level.tokens == model.vocabulary + 1, 1.0, level.backoff)[rows]
                weights = np.log10(backoff, out=np.full(len(rows), -99.0), where=backoff > 0).tolist()
                lines = zip(logs, names[rows].tolist(), weights, strict=True)
                out.writelines(f"{p:.8g}\t{name}\t{b + 0.0:.8g}\n" for p, name, b in lines)
            else:
                lines = zip(logs, names[rows].tolist(), strict=True)
                out.writelines(f"{p:.8g}\t{name}\n" for p, name in lines)
        out.write("\n\\end\\\n")
