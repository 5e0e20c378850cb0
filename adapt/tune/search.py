"""The search for the weights of the parts of fusion. It knows neither models nor run folders.

N-best lists are rescored over a grid of weights. The development set is decoded with the best weights, and the new
n-best lists are added to the pool, until no better weights are found (as in minimum error rate training, Och 2003).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adapt.decode.hypothesis import Hypothesis
from adapt.decode.parts import LENGTH, PARTS, fused_score, part_of
from adapt.decode.weights import Weights
from adapt.tune.counts import DevCounts, Judge, total

ROUNDS = 8  # the most decodings with the best weights of the grid


@dataclass(frozen=True)
class TunedSystem:
    """The result of tuning a system.

    of: the name of the system. weights: the best. counts, base: its counts with these weights, and without fusion.
    surface: (weights, cost) of every point tried: for systems with the decoder, the points of the grid over the pooled
    n-best lists; for the others, the weights that were decoded.
    """

    of: str
    weights: dict[str, float]
    counts: DevCounts
    base: DevCounts
    surface: list[tuple[dict[str, float], float]]


class _Pool:
    """All hypotheses of each utterance so far, with their counts; of equal texts, the most probable one."""

    def __init__(self, judges: Sequence[Judge]):
        self._judges = judges
        self._known: list[dict[str, tuple[Hypothesis, DevCounts]]] = [{} for _ in judges]

    def add(self, utterance: int, hypothesis: Hypothesis) -> None:
        """Add a hypothesis of an utterance, given by its index."""
        known = self._known[utterance].get(hypothesis.text)
        if known is None or hypothesis.score(Weights()) > known[0].score(Weights()):
            counts = known[1] if known else self._judges[utterance](hypothesis.text)
            self._known[utterance][hypothesis.text] = (hypothesis, counts)

    def arrays(self) -> _PoolArrays:
        """The pool as arrays."""
        shape = len(self._known), max(map(len, self._known))
        model, tokens = np.full(shape, -np.inf), np.zeros(shape)  # padding is never the best
        totals = {part.key: np.zeros(shape) for part in PARTS if part.kind != LENGTH}
        counts = np.zeros((*shape, len(dataclasses.fields(DevCounts))), np.int64)
        for i, known in enumerate(self._known):
            for j, (hypothesis, counted) in enumerate(known.values()):
                model[i, j], tokens[i, j] = hypothesis.model, hypothesis.tokens
                for key, value in hypothesis.totals.items():
                    totals[key][i, j] = value
                counts[i, j] = dataclasses.astuple(counted)
        return _PoolArrays(model, tokens, totals, counts)


@dataclass(frozen=True)
class _PoolArrays:
    """The pooled hypotheses `[utterances, hypotheses]`, padded; counts: `[utterances, hypotheses, fields]`."""

    model: np.ndarray
    tokens: np.ndarray
    totals: Mapping[str, np.ndarray]
    counts: np.ndarray

    def counts_with(self, weights: Weights) -> DevCounts:
        """The counts of the best hypothesis of each utterance."""
        best = fused_score(self.model, self.tokens, self.totals, weights).argmax(1)
        return DevCounts(*self.counts[np.arange(len(best)), best].sum(0).tolist())


def grid(active: Sequence[str]) -> list[Weights]:
    """Every combination of the weights in the grids of the parts `active`."""
    points = itertools.product(*(part_of(key).grid for key in active))
    return [Weights(**dict(zip(active, point, strict=True))) for point in points]


def search(
    decode: Callable[[Weights], Sequence[Sequence[Hypothesis]]],
    judges: Sequence[Judge],
    active: Sequence[str],
    of: str,
    advance: Callable[[], object] = lambda: None,
) -> TunedSystem:
    """Tune the weights of the parts `active`.

    decode: returns the n-best hypotheses of each utterance, best first. judges: of each utterance (`counts.judges`).
    of: the name of the system. advance: called after each decoding.
    """
    pool, decoded = _Pool(judges), {}

    def counts_of(weights: Weights) -> DevCounts:
        if weights not in decoded:
            nbest = decode(weights)
            for utterance, hypotheses in enumerate(nbest):
                for hypothesis in hypotheses:
                    pool.add(utterance, hypothesis)
            decoded[weights] = total([judge(h[0].text) for judge, h in zip(judges, nbest, strict=True)])
            advance()
        return decoded[weights]

    base = counts_of(Weights())
    counts_of(Weights(**{key: part_of(key).start for key in active}))
    points = grid(active)
    for _ in range(ROUNDS):
        arrays = pool.arrays()
        costs = [arrays.counts_with(weights).cost(base) for weights in points]
        ranked = [points[i] for i in np.argsort(costs, kind="stable")]
        if ranked[0] in decoded and not decoded[ranked[0]].refused(base):
            break
        # N-best lists do not show search errors. If decoding refutes their best point, the next best is tried.
        if (untried := next((weights for weights in ranked if weights not in decoded), None)) is None:
            break
        counts_of(untried)
    best = min((w for w in decoded if w != Weights()), key=lambda w: decoded[w].cost(base))
    return TunedSystem(of, dataclasses.asdict(best), decoded[best], base, _surface(active, points, costs))


def search_in_turn(
    decode: Callable[[Weights], Sequence[str]],
    judges: Sequence[Judge],
    grids: Mapping[str, Sequence[float]],
    of: str,
    advance: Callable[[], object] = lambda: None,
) -> TunedSystem:
    """As `search`, for a system whose search gives no separate scores: its weights are tuned one after the other.

    decode: returns the transcript of each utterance. grids: the weights of each part that are tried.
    """
    decoded: dict[Weights, DevCounts] = {}

    def cost_of(weights: Weights) -> float:
        if weights not in decoded:
            decoded[weights] = total([judge(text) for judge, text in zip(judges, decode(weights), strict=True)])
            advance()
        return decoded[weights].cost(decoded[Weights()])

    best = Weights()
    cost_of(best)
    for key, values in grids.items():
        best = min((dataclasses.replace(best, **{key: value}) for value in values), key=cost_of)
    surface = _surface(list(grids), list(decoded), [cost_of(weights) for weights in decoded])
    return TunedSystem(of, dataclasses.asdict(best), decoded[best], decoded[Weights()], surface)


def _surface(
    active: Sequence[str], points: Sequence[Weights], costs: Sequence[float]
) -> list[tuple[dict[str, float], float]]:
    """The weights of the parts `active` at each point, with its cost."""
    return [({k: getattr(w, k) for k in active}, cost) for w, cost in zip(points, costs, strict=True)]
