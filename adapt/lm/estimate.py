"""N-gram estimation: interpolated modified Kneser-Ney, in numpy, equal to KenLM's `lmplz`.

Chen and Goodman, "An empirical study of smoothing techniques for language modeling", 1999, section 3; what is counted
where, and where pruned mass goes, as in Heafield et al., "Scalable modified Kneser-Ney", 2013.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from adapt.errors import DataError

MAX_ORDER = 6
FALLBACK = (0.5, 1.0, 1.5)  # discounts where the counts of counts give none; lmplz's --discount_fallback


@dataclass
class Ngrams:
    """The n-grams of one order, as arrays of one length.

    tokens: the last token. context, suffix: row, in the order below, of the n-gram without its last and without its
    first token. probability: interpolated. backoff: the mass that an n-gram as a context leaves to the order below.
    kept: False where pruned; a pruned n-gram's row is still there, for those above it.
    """

    tokens: np.ndarray
    context: np.ndarray
    suffix: np.ndarray
    count: np.ndarray
    begins: np.ndarray  # with <s>
    probability: np.ndarray = field(default_factory=lambda: np.empty(0))
    backoff: np.ndarray = field(default_factory=lambda: np.empty(0))
    kept: np.ndarray = field(default_factory=lambda: np.empty(0, bool))


@dataclass(frozen=True)
class Model:
    """Orders 1 to n of a vocabulary of token ids. `<s>` and `</s>` follow it, with ids `vocabulary` and one more."""

    vocabulary: int
    orders: tuple[Ngrams, ...]
    unknown: float  # probability of <unk>, which is what every token that was not seen has

    @property
    def sizes(self) -> tuple[int, ...]:
        """N-grams of each order that an ARPA lists, <unk> among them."""
        return tuple(int(level.kept.sum()) + (k == 0) for k, level in enumerate(self.orders))


def estimate(sentences: Sequence[Sequence[int]], vocabulary: int, order: int = 4, prune: Sequence[int] = (0,)) -> Model:
    """Count and smooth sentences of token ids below `vocabulary`.

    prune: for each order, n-grams seen so often or less are left out; the last holds for all above; unigrams always
    stay. It must not fall from one order to the next, for an n-gram needs its context. Raises DataError without a
    token, for an id outside the vocabulary, and for an order or thresholds that cannot be.

    >>> model = estimate([[0, 1], [0, 1], [0, 0]], vocabulary=3, order=2)
    >>> model.sizes
    (5, 5)
    """
    thresholds = [*prune, *[prune[-1]] * (order - len(prune))][:order]
    if not 1 <= order <= MAX_ORDER:
        raise DataError(f"order: {order} is not in 1 to {MAX_ORDER}; 3 or 4 serve most")
    if min(thresholds) < 0 or sorted(thresholds) != thresholds:
        raise DataError(f"prune: {' '.join(map(str, prune))} falls or is negative; write e.g. 0 0 1")
    levels = _count(sentences, vocabulary, order)
    below: Ngrams | None = None
    unknown = 0.0
    for k, level in enumerate(levels, 1):
        adjusted = level.count
        if k < order:
            # Below the highest order an n-gram counts once for each token that it follows, but at the beginning.
            followed = np.bincount(levels[k].suffix, minlength=len(level.tokens))
            adjusted = np.where(level.begins, level.count, followed)
        if below is None:
            adjusted = adjusted.copy()
            adjusted[vocabulary] = 0  # <s> is given, never predicted
            level.kept = adjusted > 0
            context, contexts = np.zeros(len(adjusted), np.int64), 1
            disposed = np.ones(len(adjusted), bool)
        else:
            level.kept = disposed = level.count > thresholds[k - 1]
            context, contexts = level.context, len(below.tokens)
        discount = _discounts(adjusted)[np.minimum(adjusted, 3)]
        total = np.bincount(context, adjusted, contexts)
        freed = np.bincount(context, np.where(disposed, discount, adjusted), contexts)
        left = np.divide(freed, total, out=np.ones(contexts), where=total > 0)
        own = np.maximum(adjusted - discount, 0)
        if below is None:
            unknown = left[0] / (np.count_nonzero(level.kept) + 1)
            level.probability = own / total[0] + unknown
            level.kept[vocabulary] = True
        else:
            level.probability = own / total[context] + left[context] * below.probability[level.suffix]
            below.backoff = left
        below = level
    below.backoff = np.ones(len(below.tokens))
    return Model(vocabulary, tuple(levels), float(unknown))


def _count(sentences: Sequence[Sequence[int]], vocabulary: int, order: int) -> list[Ngrams]:
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences)) + 2
    if not len(lengths) or lengths.max() <= 2:
        raise DataError("text: holds no token to count; give text of the domain")
    begin, end = vocabulary, vocabulary + 1
    tokens = np.empty(lengths.sum(), np.int64)
    last = np.cumsum(lengths) - 1
    first = last - lengths + 1
    inside = np.ones(len(tokens), bool)
    inside[first] = inside[last] = False
    tokens[first], tokens[last] = begin, end
    tokens[inside] = np.concatenate([np.asarray(s, np.int64) for s in sentences])
    if tokens[inside].min() < 0 or tokens[inside].max() >= vocabulary:
        raise DataError(f"text: a token id is outside the vocabulary of {vocabulary:,}; use the decoder's tokenizer")
    position = np.arange(len(tokens)) - np.repeat(first, lengths)

    width = vocabulary + 2
    everything = np.arange(width)
    none = np.zeros(width, np.int64)
    seen = np.bincount(tokens[position > 0], minlength=width)
    levels = [Ngrams(everything, none, none, seen, np.zeros(width, bool))]
    row = tokens  # of the n-gram that ends at each position, in the order below
    for k in range(2, order + 1):
        ends = np.flatnonzero(position >= k - 1)
        keys = row[ends - 1] * width + tokens[ends]
        found, where, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        begins = position[ends[where]] == k - 1
        levels.append(Ngrams(found % width, found // width, row[ends[where]], counts, begins))
        row = np.full(len(tokens), -1, np.int64)
        row[ends] = inverse
    return levels


def _discounts(counts: np.ndarray) -> np.ndarray:
    """What is taken off a count of 0, 1, 2, and 3 or more (Chen and Goodman, equation 26)."""
    n = np.bincount(np.minimum(counts, 5), minlength=6)[:5].astype(float)
    if (n[1:4] > 0).all():
        y = n[1] / (n[1] + 2 * n[2])
        found = np.array([j - (j + 1) * y * n[j + 1] / n[j] for j in (1, 2, 3)])
        if (found >= 0).all() and (found <= (1, 2, 3)).all():
            return np.array([0, *found])
    return np.array([0, *FALLBACK])


def write_arpa(model: Model, path: str | os.PathLike, symbols: Sequence[str] | None = None) -> None:
    """Write an ARPA file, and its folder where it is not there.

    symbols: the word of each token id; None writes the ids themselves, in decimals.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    words = [str(i) for i in range(model.vocabulary)] if symbols is None else list(symbols)
    words = np.array([*words, "<s>", "</s>"], dtype=object)
    names, highest = words, len(model.orders)
    with open(path, "w", encoding="utf-8") as out:
        out.write("\\data\\\n")
        out.writelines(f"ngram {k}={size}\n" for k, size in enumerate(model.sizes, 1))
        for k, level in enumerate(model.orders, 1):
            if k > 1:
                names = names[level.context] + " " + words[level.tokens]
            rows = np.flatnonzero(level.kept)
            # <s> has no probability of its own; the formats want one.
            given = np.where((k == 1) & (level.tokens == model.vocabulary), 1.0, level.probability)[rows]
            logs = np.log10(given).tolist()
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
