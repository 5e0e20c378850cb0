"""The alignment of audio embeddings with the token embeddings of the transcript: cosines, monotonicity, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from adapt.model.speech_llm import SpeechLLM

SHUFFLES = 8  # random orders of the tokens in `monotonicity`


def cosines(speech_llm: SpeechLLM, slots: torch.Tensor, ids: Sequence[int]) -> np.ndarray:
    """Cosines `[slots, tokens]` of audio embeddings (`slots`: `[slots, hidden]`) and the embeddings of token ids."""
    table = F.normalize(speech_llm.embed(ids).detach().float(), dim=-1)
    return (F.normalize(slots.float(), dim=-1) @ table.T).cpu().numpy()


def best_path(matrix: np.ndarray) -> float:
    """Mean of `matrix [slots, tokens]` along the best path through all tokens in order.

    >>> best_path(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])), best_path(np.array([[0.0, 1.0], [1.0, 0.0]]))
    (1.0, 0.0)
    """
    totals = np.full(matrix.shape[1], -np.inf)  # of the best path to each token
    totals[0] = matrix[0, 0]
    for row in matrix[1:]:
        totals = row + np.maximum(totals, np.concatenate([[-np.inf], totals[:-1]]))
    return float(totals[-1] / len(matrix))


def monotonicity(matrix: np.ndarray, rng: np.random.Generator) -> float | None:
    """The mean cosine along the best path, minus the mean for shuffled tokens (`matrix`: cosines `[slots, tokens]`).

    It is 0 if the audio embeddings carry no information about the order of the tokens. None for fewer than two tokens,
    and for fewer audio embeddings than tokens.
    """
    slots, tokens = matrix.shape
    if not 2 <= tokens <= slots:
        return None
    shuffled = [best_path(matrix[:, rng.permutation(tokens)]) for _ in range(SHUFFLES)]
    return best_path(matrix) - float(np.mean(shuffled))


def picture(panels: dict[str, tuple[np.ndarray, Sequence[str]]], title: str, out: Path) -> None:
    """Draw a panel for each `name -> (cosines [slots, tokens], token labels)`: slots to the right, tokens downwards."""
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(9, 1 + sum(0.16 * len(labels) + 0.6 for _, labels in panels.values())), layout="constrained"
    )
    axes = figure.subplots(
        len(panels), squeeze=False, gridspec_kw={"height_ratios": [len(labels) + 4 for _, labels in panels.values()]}
    )
    for (name, (matrix, labels)), axis in zip(panels.items(), axes[:, 0], strict=True):
        image = axis.imshow(matrix.T, aspect="auto", cmap="viridis", interpolation="nearest")
        axis.set_yticks(range(len(labels)), labels, fontsize=7)
        axis.set_xlabel(f"slot; {name}", fontsize=8)
        figure.colorbar(image, ax=axis, label="cosine")
    figure.suptitle(title, fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
