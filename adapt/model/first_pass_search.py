"""Beam search for Whisper's own transcript, the first pass of a two-pass recogniser.

The paper of Whisper (2212.04356) searches with five beams, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

BEAMS = 5
NEVER = -float("inf")

# The log probabilities `[rows * beams, tokens]` that follow the tokens `[rows * beams, 1]`, or, for None, the prompt.
# The second argument says which beam each of the beams continues, `[rows * beams]`.
Step = Callable[[torch.Tensor | None, torch.Tensor | None], torch.Tensor]


def likeliest_tokens(step: Step, limits: Sequence[int], end: int, repeated: int, beams: int) -> list[list[int]]:
    """The tokens of each row, without the end, with the highest mean log probability that a beam search finds.

    limits: the most tokens of each row, at which a text may also stop without its end. end: the token that ends a
    transcript. repeated: a transcript ends before it repeats so many tokens in the same order. The search of a row is
    over when it has found as many ends as it has beams; with one beam, it is greedy.
    """
    logs = step(None, None)
    running: list[list[list[int]]] = [[[]] * beams for _ in limits]
    found: list[list[tuple[float, list[int]]]] = [[] for _ in limits]
    scores = torch.tensor([[0.0] + [NEVER] * (beams - 1)] * len(limits))  # all beams are equal yet
    for length in range(1, max(limits) + 1):
        best = (scores.to(logs.device).flatten()[:, None] + logs).view(len(limits), -1).topk(2 * beams)
        places, values = best.indices.tolist(), best.values.tolist()
        rows = []
        for row, limit in enumerate(limits):
            kept: list[tuple[float, int, list[int]]] = []
            for rank, (place, value) in enumerate(zip(places[row], values[row], strict=True)):
                origin, token = divmod(place, logs.shape[1])
                text = running[row][origin]
                if value == NEVER or len(kept) == beams:
                    continue
                if token == end and rank < beams:
                    found[row].append((value / length, text))
                elif repeats([*text, token], repeated):
                    found[row].append((value / length, text[: 1 - repeated]))
                elif token != end:
                    kept.append((value, origin, [*text, token]))
            if length == limit:
                found[row] += [(value / length, text) for value, _, text in kept]
            if length >= limit or len(found[row]) >= beams:
                kept = []
            rows.append(kept + [(NEVER, 0, [end])] * (beams - len(kept)))
        scores = torch.tensor([[value for value, _, _ in row] for row in rows])
        if bool((scores == NEVER).all()):
            break
        running = [[text for _, _, text in row] for row in rows]
        last = torch.tensor([[text[-1]] for row in running for text in row], device=logs.device)
        origins = [n * beams + origin for n, row in enumerate(rows) for _, origin, _ in row]
        logs = step(last, torch.tensor(origins, device=logs.device))
    return [max(of_row)[1] if of_row else [] for of_row in found]


def repeats(tokens: Sequence[int], count: int) -> bool:
    """Whether the last `count` tokens stand in the same order before, too.

    >>> repeats([1, 2, 3, 1, 2], 2), repeats([1, 2, 3, 1, 2], 3)
    (True, False)
    """
    last = tokens[-count:]
    return any(tokens[i : i + count] == last for i in range(len(tokens) - count))
