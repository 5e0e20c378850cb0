"""An n-gram model over token ids as a back-off automaton: each state is a context that the model lists."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from adapt.errors import DataError
from adapt.lm.arpa import BEGIN, END, UNKNOWN, Arpa, read_arpa
from adapt.lm.automaton import Automaton, assemble

ROOT, START = 0, 1  # the states of the empty context and of <s>
_LOG_ZERO = -99 * np.log(10)  # a probability of 0 in ARPA files


def load_ngrams(
    path: str | os.PathLike, vocabulary: int, ends: Sequence[int] = (), special: Sequence[int] = ()
) -> Automaton:
    """Read an ARPA of token ids (`arpa.read_arpa`) for a decoder with `vocabulary` outputs.

    ends: the decoder's end-of-sentence tokens; each gets the model's score of `</s>`. special: tokens that keep their
    scores. Every other token that the model does not list gets the probability of `<unk>`, as in KenLM, or 10^-99 if
    the model has no `<unk>`. Raises DataError for a file that is no ARPA of token ids or has another vocabulary.
    """
    arpa = read_arpa(path)
    highest = max(int(tokens.max()) for tokens in arpa.tokens if tokens.size)
    if highest >= vocabulary:
        raise DataError(
            f"{path}: holds token {highest:,}, but the decoder's vocabulary size is {vocabulary:,}; the file belongs to"
            " another tokenizer's vocabulary: estimate it again with `adapt lm`"
        )
    try:
        return ngram_automaton(arpa, vocabulary, ends, special)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def ngram_automaton(arpa: Arpa, vocabulary: int, ends: Sequence[int] = (), special: Sequence[int] = ()) -> Automaton:
    """The automaton of an n-gram model in memory. The other parameters and the errors are those of `load_ngrams`."""
    states = _unigrams(arpa, vocabulary)
    for order in range(2, len(arpa.tokens) + 1):
        _add_order(states, arpa, order)
    backoffs, parents = np.concatenate(states.backoffs), np.concatenate(states.parents)
    to_root, final = _costs(backoffs, parents, states.endings)
    gains = _gains(states, backoffs, parents, to_root)
    return assemble(
        sources=_joined([arcs.sources for arcs in states.arcs], np.int64),
        tokens=_joined([arcs.tokens for arcs in states.arcs], np.int64),
        gains=_joined(gains, float),
        targets=_joined([arcs.targets for arcs in states.arcs], np.int64),
        parents=parents,
        backoff=to_root[:, None],
        root=states.root,
        root_targets=states.root_targets,
        home=np.zeros(states.count, np.int64),
        classes=np.ones((1, vocabulary)),
        final=final,
        starts=[START],
        special=[*special, *ends],
        ends=ends,
    )


@dataclass(frozen=True)
class _Arcs:
    """The n-grams of one order above 1 as arcs, sorted by key: source * vocabulary + token."""

    keys: np.ndarray
    sources: np.ndarray
    tokens: np.ndarray
    logs: np.ndarray  # log probabilities
    targets: np.ndarray

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The position of each of `keys`, and whether an arc has that key."""
        if not len(self.keys):
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
        positions = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return positions, self.keys[positions] == keys


@dataclass
class _States:
    """The states and arcs of the orders read so far.

    count: number of states. parents: the states to which states back off. root, root_targets: `[V]`, log probability
    and target state of each unigram. endings: for each order, (states, log probabilities of `</s>` after them).
    """

    vocabulary: int
    root: np.ndarray
    root_targets: np.ndarray
    count: int
    backoffs: list[np.ndarray]
    parents: list[np.ndarray]
    endings: list[tuple[np.ndarray, np.ndarray]]
    arcs: list[_Arcs] = field(default_factory=list)

    def of(self, contexts: np.ndarray) -> np.ndarray:
        """The state of each context `[n, length]`; -1 for a context that the model does not list."""
        first = contexts[:, 0]
        states = np.where(first == BEGIN, START, self.root_targets[np.maximum(first, 0)])
        states = np.where((states == ROOT) | (first == END) | (first == UNKNOWN), -1, states)
        for arcs, tokens in zip(self.arcs, contexts.T[1:], strict=False):
            positions, exists = arcs.find(states * self.vocabulary + tokens)
            exists &= (states >= 0) & (tokens >= 0)
            states = np.where(exists, arcs.targets[positions] if len(arcs.targets) else -1, -1)
        return states


def _unigrams(arpa: Arpa, vocabulary: int) -> _States:
    """The root, the state of `<s>`, and a state for each unigram."""
    words, logs, backoffs = arpa.tokens[0][:, 0], arpa.logs[0], arpa.backoffs[0]
    listed = np.flatnonzero(words >= 0)
    root = np.full(vocabulary, _value_of(UNKNOWN, words, logs, _LOG_ZERO))
    root[words[listed]] = logs[listed]
    root_targets = np.zeros(vocabulary, np.int64)
    root_targets[words[listed]] = 2 + np.arange(len(listed))
    return _States(
        vocabulary=vocabulary,
        root=root,
        root_targets=root_targets,
        count=2 + len(listed),
        backoffs=[np.array([0.0, _value_of(BEGIN, words, backoffs, 0.0)]), backoffs[listed]],
        parents=[np.zeros(2 + len(listed), np.int64)],
        endings=[(np.zeros(1, np.int64), np.array([_value_of(END, words, logs, _LOG_ZERO)]))],
    )


def _add_order(states: _States, arpa: Arpa, order: int) -> None:
    """Add the n-grams of one order; below the highest order each becomes a state.

    Raises DataError for an n-gram whose context is not listed.
    """
    tokens, logs, backoffs = arpa.tokens[order - 1], arpa.logs[order - 1], arpa.backoffs[order - 1]
    known = ~(tokens == UNKNOWN).any(1)  # no token of a decoder is <unk>
    tokens, logs, backoffs = tokens[known], logs[known], backoffs[known]
    sources = states.of(tokens[:, :-1])
    if (sources < 0).any():
        without_context = " ".join(map(str, tokens[sources < 0][0]))
        raise DataError(
            f"the {order}-gram {without_context!r} is listed, but its context is not; estimate the model again"
        )
    last = tokens[:, -1]
    states.endings.append((sources[last == END], logs[last == END]))
    inner = last >= 0
    tokens, logs, backoffs, sources, last = tokens[inner], logs[inner], backoffs[inner], sources[inner], last[inner]
    suffixes = _longest_suffixes(states, tokens)
    sort = np.argsort(sources * states.vocabulary + last, kind="stable")
    logs, backoffs, sources, last, suffixes = logs[sort], backoffs[sort], sources[sort], last[sort], suffixes[sort]
    highest = order == len(arpa.tokens)
    targets = suffixes if highest else states.count + np.arange(len(sources))
    states.arcs.append(_Arcs(sources * states.vocabulary + last, sources, last, logs, targets))
    if not highest:
        states.count += len(sources)
        states.backoffs.append(backoffs)
        states.parents.append(suffixes)


def _longest_suffixes(states: _States, tokens: np.ndarray) -> np.ndarray:
    """The state of the longest listed proper suffix of each n-gram; the root if no suffix is listed.

    A model pruned by another tool may lack the suffix that is one token shorter.
    """
    suffixes = np.full(len(tokens), -1)
    for dropped in range(1, tokens.shape[1]):
        missing = suffixes < 0
        suffixes[missing] = states.of(tokens[missing][:, dropped:])
    return np.maximum(suffixes, ROOT)


def _costs(
    backoffs: np.ndarray, parents: np.ndarray, endings: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """For each state: the sum of the back-offs on its way to the root, and the log probability of `</s>` after it."""
    to_root = np.zeros(len(parents))
    final = np.full(len(parents), np.nan)
    for sources, logs in endings:
        final[sources] = logs
    depths = _depths(parents)
    by_depth = np.argsort(depths, kind="stable")
    for level in np.split(by_depth, np.flatnonzero(np.diff(depths[by_depth])) + 1):
        inner = level[level != ROOT]
        to_root[inner] = backoffs[inner] + to_root[parents[inner]]
        missing = inner[np.isnan(final[inner])]
        final[missing] = backoffs[missing] + final[parents[missing]]
    return to_root, final


def _gains(states: _States, backoffs: np.ndarray, parents: np.ndarray, to_root: np.ndarray) -> list[np.ndarray]:
    """The gains of the arcs of each order: how much higher they score than backing off from their sources."""
    gains: list[np.ndarray] = []
    for order, arcs in enumerate(states.arcs):
        below = parents[arcs.sources]
        backed_off = backoffs[arcs.sources] + states.root[arcs.tokens] + to_root[below]
        while below.any():
            # Every arc met while backing off is of a lower order, whose gains are known already.
            for lower, gained in zip(states.arcs[:order], gains, strict=True):
                positions, exists = lower.find(below * states.vocabulary + arcs.tokens)
                if len(gained):
                    backed_off += np.where(exists & (below != ROOT), gained[positions], 0.0)
            below = parents[below]
        gains.append(arcs.logs - backed_off)
    return gains


def _value_of(symbol: int, words: np.ndarray, values: np.ndarray, default: float) -> float:
    """The value of a symbol such as BEGIN; the default if the words lack it."""
    matches = values[words == symbol]
    return float(matches[0]) if len(matches) else default


def _depths(parents: np.ndarray) -> np.ndarray:
    """The number of back-offs from each state to the root."""
    depths, current = np.zeros(len(parents), np.int64), np.arange(len(parents))
    while current.any():
        depths += current != ROOT
        current = parents[current]
    return depths


def _joined(parts: list[np.ndarray], kind: type) -> np.ndarray:
    """The concatenated arrays; without any, an empty array of this type."""
    return np.concatenate(parts) if parts else np.empty(0, kind)
