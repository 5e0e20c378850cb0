"""How audio embeddings lie beside the embeddings of what was said: cosines, their order in time, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from adapt.model.speech_llm import SpeechLLM

SHUFFLES = 8


def cosines(speech_llm: SpeechLLM, slots: torch.Tensor, ids: Sequence[int]) -> np.ndarray:
    """Cosine of each audio embedding (`[slots, hidden]`) with the embedding of each token, `[slots, tokens]`."""
    table = F.normalize(speech_llm.embed(ids).detach().float(), dim=-1)
    return (F.normalize(slots.float(), dim=-1) @ table.T).cpu().numpy()


def best_path(matrix: np.ndarray) -> float:
    """Mean of `matrix [slots, tokens]` along the best path that goes through the tokens in order, missing none.

    >>> best_path(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])), best_path(np.array([[0.0, 1.0], [1.0, 0.0]]))
    (1.0, 0.0)
    """
    reached = np.full(matrix.shape[1], -np.inf)
    reached[0] = matrix[0, 0]
    for row in matrix[1:]:
        reached = row + np.maximum(reached, np.concatenate([[-np.inf], reached[:-1]]))
    return float(reached[-1] / len(matrix))


def monotonicity(matrix: np.ndarray, rng: np.random.Generator) -> float | None:
    """What the order of the tokens is worth: the mean cosine along the best path, less that of shuffled tokens.

    0 where slots say nothing about the order. None with fewer than two tokens or fewer slots than tokens.
    """
    slots, tokens = matrix.shape
    if not 2 <= tokens <= slots:
        return None
    shuffled = [best_path(matrix[:, rng.permutation(tokens)]) for _ in range(SHUFFLES)]
    return best_path(matrix) - float(np.mean(shuffled))


def picture(panels: dict[str, tuple[np.ndarray, Sequence[str]]], title: str, out: Path) -> None:
    """A panel for each `name -> (cosines [slots, tokens], token labels)`: slots to the right, tokens downwards."""
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
