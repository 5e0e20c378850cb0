"""An n-gram model over token ids as an automaton: a state is a context that the model knows."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from adapt.errors import DataError
from adapt.lm.arpa import BEGIN, END, UNKNOWN, Arpa, read_arpa
from adapt.lm.automaton import Automaton, assemble

ROOT, START = 0, 1  # no context, and <s>
_NEVER = -99 * np.log(10)  # what files write for a probability of 0


def load_ngrams(
    path: str | os.PathLike, vocabulary: int, ends: Sequence[int] = (), special: Sequence[int] = ()
) -> Automaton:
    """Read an ARPA of token ids (`arpa.read_arpa`) for a decoder with `vocabulary` outputs.

    ends: the decoder's end-of-sentence tokens; they get what the model says of `</s>`. special: tokens that keep their
    scores. Every other token that the model does not list has the probability of its `<unk>`, as in KenLM; a model
    without one gives it 10^-99. Raises DataError for a file that is none, or is of another vocabulary.
    """
    arpa = read_arpa(path)
    highest = max(int(tokens.max()) for tokens in arpa.tokens if tokens.size)
    if highest >= vocabulary:
        raise DataError(
            f"{path}: holds token {highest:,} and the decoder's vocabulary is {vocabulary:,}; it is another"
            " tokenizer's: make it again with `adapt lm`"
        )
    try:
        return automaton(arpa, vocabulary, ends, special)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def automaton(arpa: Arpa, vocabulary: int, ends: Sequence[int] = (), special: Sequence[int] = ()) -> Automaton:
    """The automaton of a model that is in memory; as `load`."""
    words, logs, backoffs = arpa.tokens[0][:, 0], arpa.logs[0], arpa.backoffs[0]
    listed = np.flatnonzero(words >= 0)
    root = np.full(vocabulary, _of(words, logs, UNKNOWN, _NEVER))
    root[words[listed]] = logs[listed]
    # A unigram is a state: 2 and up; those of the orders above follow.
    root_targets = np.zeros(vocabulary, np.int64)
    root_targets[words[listed]] = 2 + np.arange(len(listed))
    backoff = [np.array([0.0, _of(words, backoffs, BEGIN, 0.0)]), backoffs[listed]]
    parents = [np.zeros(2 + len(listed), np.int64)]
    states = 2 + len(listed)
    keys: list[np.ndarray] = []  # of the arcs of each order, sorted, and what they lead to
    nodes: list[np.ndarray] = []
    arcs: list[tuple[np.ndarray, ...]] = []  # sources, tokens, logs, targets
    endings = [(np.zeros(1, np.int64), np.array([_of(words, logs, END, _NEVER)]))]

    def follow(state: np.ndarray, token: np.ndarray, order: int) -> np.ndarray:
        """The state of an n-gram of an order, from that of its context; -1 where there is none."""
        if not len(keys[order - 2]):
            return np.full(len(state), -1)
        wanted = state * vocabulary + token
        at = np.minimum(np.searchsorted(keys[order - 2], wanted), len(keys[order - 2]) - 1)
        there = (keys[order - 2][at] == wanted) & (state >= 0) & (token >= 0)
        return np.where(there, nodes[order - 2][at], -1)

    def state_of(context: np.ndarray) -> np.ndarray:
        first = context[:, 0]
        state = np.where(first == BEGIN, START, root_targets[np.maximum(first, 0)])
        state = np.where((state == 0) | (first == END) | (first == UNKNOWN), -1, state)
        for k in range(1, context.shape[1]):
            state = follow(state, context[:, k], k + 1)
        return state

    for order in range(2, len(arpa.tokens) + 1):
        tokens, log, after = arpa.tokens[order - 1], arpa.logs[order - 1], arpa.backoffs[order - 1]
        known = ~(tokens == UNKNOWN).any(1)  # no token of a decoder is <unk>
        tokens, log, after = tokens[known], log[known], after[known]
        source = state_of(tokens[:, :-1])
        if (source < 0).any():
            lost = " ".join(map(str, tokens[source < 0][0]))
            raise DataError(f"the {order}-gram {lost!r} is there and its context is not; estimate the model again")
        last = tokens[:, -1]
        endings.append((source[last == END], log[last == END]))
        inner = last >= 0
        tokens, log, after, source, last = tokens[inner], log[inner], after[inner], source[inner], last[inner]
        # Models that were pruned by others may lack a suffix: the next shorter one that is there is backed off to.
        suffix = np.full(len(tokens), -1)
        for dropped in range(1, order):
            lacking = suffix < 0
            suffix[lacking] = state_of(tokens[lacking][:, dropped:])
        suffix = np.maximum(suffix, ROOT)
        sort = np.argsort(source * vocabulary + last, kind="stable")
        log, after, source, last, suffix = log[sort], after[sort], source[sort], last[sort], suffix[sort]
        highest = order == len(arpa.tokens)
        targets = suffix if highest else states + np.arange(len(source))
        keys.append(source * vocabulary + last)
        nodes.append(targets)
        arcs.append((source, last, log, targets))
        if not highest:
            states += len(source)
            backoff.append(after)
            parents.append(suffix)

    cost, parent = np.concatenate(backoff), np.concatenate(parents)
    rest = np.zeros(states)
    final = np.full(states, np.nan)
    for source, log in endings:
        final[source] = log
    order_of = np.argsort(_depths(parent), kind="stable")
    for level in np.split(order_of, np.flatnonzero(np.diff(_depths(parent)[order_of])) + 1):
        inner = level[level != ROOT]
        rest[inner] = cost[inner] + rest[parent[inner]]
        lacking = inner[np.isnan(final[inner])]
        final[lacking] = cost[lacking] + final[parent[lacking]]

    gains: list[np.ndarray] = []
    for k, (source, last, log, _) in enumerate(arcs):
        # What backing off would give: all that is found below is in the orders that are done.
        otherwise = cost[source] + root[last] + rest[parent[source]]
        below = parent[source]
        while below.any():
            for j in range(k):
                wanted = below * vocabulary + last
                at = np.minimum(np.searchsorted(keys[j], wanted), len(keys[j]) - 1)
                if len(keys[j]):
                    otherwise += np.where((keys[j][at] == wanted) & (below != ROOT), gains[j][at], 0.0)
            below = parent[below]
        gains.append(log - otherwise)

    def joined(parts: list[np.ndarray], kind: type) -> np.ndarray:
        return np.concatenate(parts) if parts else np.empty(0, kind)

    return assemble(
        sources=joined([source for source, *_ in arcs], np.int64),
        tokens=joined([last for _, last, *_ in arcs], np.int64),
        gains=joined(gains, float),
        targets=joined([targets for *_, targets in arcs], np.int64),
        parents=parent,
        rest=rest[:, None],
        root=root,
        root_targets=root_targets,
        home=np.zeros(states, np.int64),
        classes=np.ones((1, vocabulary)),
        final=final,
        starts=[START],
        special=[*special, *ends],
        ends=ends,
    )


def _of(words: np.ndarray, values: np.ndarray, symbol: int, otherwise: float) -> float:
    found = values[words == symbol]
    return float(found[0]) if len(found) else otherwise


def _depths(parents: np.ndarray) -> np.ndarray:
    """How many states each backs off through to the root."""
    depths, current = np.zeros(len(parents), np.int64), np.arange(len(parents))
    while current.any():
        depths += current != 0
        current = parents[current]
    return depths
