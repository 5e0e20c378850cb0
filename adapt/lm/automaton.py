"""Back-off automata over token ids, as tensors: the common form of n-gram models and lists of phrases to boost.

A state has arcs for some tokens. For any other token it backs off, state after state, to the root, which has a score
for every token. The score of a token is therefore a sum of three parts:

- the root's score of the token;
- the costs of backing off all the way to the root;
- for each arc met on the way, its *gain*: how much higher the arc scores than backing off further would.

The first two parts are a matrix product over the whole vocabulary; only the gains are looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch


@dataclass(frozen=True)
class Automaton:
    """An automaton of S states, A arcs, V tokens and C classes of tokens. Scores are natural logs.

    first: `[S + 1]`, the index of the first arc of each state. tokens, gains, targets: `[A]`, sorted by state, then by
    token. keys: `[A]`, state * V + token. chain: `[S, D]`, the states with arcs on the way from each state to the root,
    padded with 0. classes: `[C, V]`, one-hot; the cost of backing off may depend on the class of the next token.
    Special tokens are in no class and keep their scores. backoff: `[S, C]`, the cost of backing off all the way to the
    root. root: `[V]`, the root's scores. root_targets: `[V]`, the states to which tokens lead from the root; 0 if a
    token leads to `home [S]`, the state from which each state starts again. final: `[S]`, the score of the end of the
    sentence, that is of the tokens `ends`. starts: the first state of each list of phrases; an n-gram model has one.
    """

    first: torch.Tensor
    tokens: torch.Tensor
    gains: torch.Tensor
    targets: torch.Tensor
    keys: torch.Tensor
    chain: torch.Tensor
    backoff: torch.Tensor
    root: torch.Tensor
    root_targets: torch.Tensor
    home: torch.Tensor
    classes: torch.Tensor
    final: torch.Tensor
    starts: torch.Tensor
    ends: tuple[int, ...] = ()

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return len(self.root)

    def to(self, device: torch.device | str) -> Automaton:
        """The same on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.to(device) for k, v in values.items() if isinstance(v, torch.Tensor)})

    def padded(self, vocabulary: int) -> Automaton:
        """The same for a decoder with `vocabulary` outputs; those without a token count as special tokens.

        Raises ValueError for fewer outputs than tokens.
        """
        padding = vocabulary - self.vocabulary
        if padding < 0:
            raise ValueError(
                f"the decoder has {vocabulary} outputs, fewer than the automaton's {self.vocabulary} tokens"
            )
        states, tokens = self.keys // self.vocabulary, self.keys % self.vocabulary
        return replace(
            self,
            keys=states * vocabulary + tokens,
            root=torch.nn.functional.pad(self.root, (0, padding)),
            root_targets=torch.nn.functional.pad(self.root_targets, (0, padding)),
            classes=torch.nn.functional.pad(self.classes, (0, padding)),
        )

    def start(self, rows: int) -> torch.Tensor:
        """The states `[rows]` before the first token. The rows of a list are adjacent, equally many for each list."""
        return self.starts.repeat_interleave(rows // len(self.starts))

    def advance(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and next states `[rows, V]` of every token after the states `[rows]`."""
        scores = score_all(states.new_zeros(len(states), self.vocabulary, dtype=torch.float32), [(self, states, 1.0)])
        all_tokens = torch.arange(self.vocabulary, device=states.device).expand(len(states), -1)
        return scores, self.step(states, all_tokens)[1]

    def step(self, states: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and next states `[rows, K]` of some tokens `[rows, K]`. The end of a sentence keeps the state."""
        chain = self.chain[states].long()
        keys = chain[:, :, None] * self.vocabulary + tokens[:, None]
        arcs = torch.searchsorted(self.keys, keys).clamp_(max=max(len(self.keys) - 1, 0))
        exists = (self.keys[arcs] == keys) & (chain[:, :, None] != 0) if len(self.keys) else keys < 0
        gained = torch.where(exists, self.gains[arcs], 0.0).sum(1) if len(self.keys) else 0.0
        backed_off = (self.backoff[states][:, :, None] * self.classes[:, tokens].transpose(0, 1)).sum(1)
        scores = self.root[tokens] + backed_off + gained
        target = self.root_targets[tokens].long()
        target = torch.where(target == 0, self.home[states][:, None], target)
        if len(self.keys):
            nearest = arcs.gather(1, exists.to(torch.uint8).argmax(1, keepdim=True)).squeeze(1)
            target = torch.where(exists.any(1), self.targets[nearest].long(), target)
        special = self.classes[:, tokens].sum(0) == 0
        for end in self.ends:
            scores = torch.where(tokens == end, self.final[states][:, None], scores)
        return scores, torch.where(special, states[:, None], target)

    def totals(self, sequences: Sequence[Sequence[int]], states: torch.Tensor | None = None) -> torch.Tensor:
        """The scores `[rows]` of whole sentences, ends included. states: `[rows]` to start from; None: `start`."""
        states = self.start(len(sequences)) if states is None else states
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(s, dtype=torch.long) for s in sequences], batch_first=True)
        lengths = torch.tensor([len(s) for s in sequences], device=states.device)
        totals = self.backoff.new_zeros(len(sequences))
        for column, tokens in enumerate(ids.to(states.device).T):
            scores, after = self.step(states, tokens[:, None])
            unfinished = column < lengths
            totals = totals + torch.where(unfinished, scores[:, 0], 0.0)
            states = torch.where(unfinished, after[:, 0], states)
        return totals + self.final[states]


Term = tuple[Automaton, torch.Tensor, float]  # automaton, states `[rows]`, weight


def score_all(scores: torch.Tensor, terms: Sequence[Term], dense: torch.Tensor | None = None) -> torch.Tensor:
    """Add, in place, the weighted scores of every token to `scores [rows, V]`, and return them.

    dense: `dense_rows` of the automata of `terms`; None: computed here.
    """
    dense = dense_rows([automaton for automaton, _, _ in terms]) if dense is None else dense
    columns = [
        torch.cat([a.backoff.new_full((len(states), 1), weight), weight * a.backoff[states]], 1)
        for a, states, weight in terms
    ]
    # One pass for all automata, over what may be ten million numbers. It works in place, because allocating as much
    # memory again takes longer than the pass.
    scores.addmm_(torch.cat(columns, 1).to(scores.dtype), dense.to(scores.dtype))
    flat = scores.view(-1)
    # Frequent states have thousands of arcs, which dominate the time of a step: hence 32 bits and index_select.
    number = torch.int32 if scores.numel() < 2**31 else torch.int64
    for automaton, states, weight in terms:
        chain = automaton.chain[states]
        begin = automaton.first[chain]
        # State 0 is the root, whose scores are added already.
        counts = torch.where(chain == 0, 0, automaton.first[chain + 1] - begin).flatten()
        which = torch.repeat_interleave(counts)
        shift = begin.flatten() - (counts.cumsum(0, dtype=torch.int32) - counts)
        arcs = shift.index_select(0, which) + torch.arange(len(which), dtype=torch.int32, device=which.device)
        rows = torch.arange(len(states), dtype=number, device=which.device) * automaton.vocabulary
        places = automaton.tokens.index_select(0, arcs).to(number)
        places += rows.repeat_interleave(chain.shape[1]).index_select(0, which)
        flat.index_add_(0, places, automaton.gains.index_select(0, arcs).to(scores.dtype), alpha=weight)
        for end in automaton.ends:
            scores[:, end] += weight * automaton.final[states]
    return scores


def dense_rows(automata: Sequence[Automaton]) -> torch.Tensor:
    """The root's scores and the classes of each automaton, as rows `[sum of 1 + C, V]`."""
    return torch.cat([row for a in automata for row in (a.root[None], a.classes)])


def assemble(
    *,
    sources: np.ndarray,
    tokens: np.ndarray,
    gains: np.ndarray,
    targets: np.ndarray,
    parents: np.ndarray,
    backoff: np.ndarray,
    root: np.ndarray,
    root_targets: np.ndarray,
    home: np.ndarray,
    classes: np.ndarray,
    final: np.ndarray,
    starts: Sequence[int],
    special: Sequence[int],
    ends: Sequence[int],
) -> Automaton:
    """An automaton from arcs in any order.

    sources, tokens, gains, targets: `[A]`. parents: `[S]`, the state to which each backs off; 0 for the root. special:
    tokens that keep their scores. The others are those of `Automaton`.
    """
    vocabulary, states = len(root), len(parents)
    keys = sources * vocabulary + tokens
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.searchsorted(keys, np.arange(states + 1) * vocabulary)
    chain = _chain(parents, has_arcs=np.diff(first) > 0)
    root, classes = root.astype(np.float32), classes.astype(np.float32)
    root[list(special)] = 0
    classes[:, list(special)] = 0

    def tensor(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(dtype)

    return Automaton(
        first=tensor(first, torch.int32),
        tokens=tensor(tokens[order], torch.int32),
        gains=tensor(gains[order], torch.float32),
        targets=tensor(targets[order], torch.int64),
        keys=tensor(keys, torch.int64),
        chain=tensor(chain, torch.int32),
        backoff=tensor(backoff, torch.float32),
        root=tensor(root, torch.float32),
        root_targets=tensor(root_targets, torch.int64),
        home=tensor(home, torch.int64),
        classes=tensor(classes, torch.float32),
        final=tensor(final, torch.float32),
        starts=torch.tensor(list(starts)),
        ends=tuple(ends),
    )


def _chain(parents: np.ndarray, has_arcs: np.ndarray) -> np.ndarray:
    """The states with arcs `[S, D]` on the way from each state to the root, padded with 0 to the longest way."""
    levels, current = [], np.arange(len(parents))
    while current.any():
        levels.append(np.where(has_arcs[current], current, 0))
        current = parents[current]
    chain = np.stack(levels, 1) if levels else np.zeros((len(parents), 1), np.int64)
    gaps_last = np.argsort(chain == 0, axis=1, kind="stable")
    chain = np.take_along_axis(chain, gaps_last, 1)
    return chain[:, : max(1, int((chain != 0).sum(1).max(initial=0)))]
