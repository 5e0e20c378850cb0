"""The encoder's own hypothesis, without the decoder: greedy CTC, a baseline for the decoder and a confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from adapt.model.features import pad
from adapt.model.speech_llm import SpeechLLM


@dataclass(frozen=True)
class Heard:
    """confidence: mean over the letters of the highest posterior in each one's run of frames, 0 to 1.

    None where no letter was heard.
    """

    text: str
    confidence: float | None


@torch.no_grad()
def heard(speech_llm: SpeechLLM, samples: Sequence[np.ndarray]) -> list[Heard]:
    """The most probable symbol of each frame, repeats merged, blanks dropped; for each recording (mono, 16 kHz)."""
    model = speech_llm.model
    logits, lengths = model.encoder(*model.encoder.inputs(*(x.to(speech_llm.device) for x in pad(samples))))
    posteriors, symbols = logits.float().softmax(-1).max(-1)
    rows = zip(posteriors.tolist(), symbols.tolist(), lengths.tolist(), strict=True)
    return [collapsed(row[1][: row[2]], row[0][: row[2]], model.config.alphabet) for row in rows]


def collapsed(path: Sequence[int], posteriors: Sequence[float], alphabet: str) -> Heard:
    """Text and confidence of a path, a symbol a frame; those beyond the alphabet are blank.

    >>> collapsed([0, 0, 2, 0, 1], [0.5, 0.7, 1.0, 0.9, 0.8], "ab")
    Heard(text='aab', confidence=0.8)
    """
    letters, best = [], []
    last = None
    for symbol, posterior in zip(path, posteriors, strict=True):
        if symbol < len(alphabet):
            if symbol == last:
                best[-1] = max(best[-1], posterior)
            else:
                letters.append(alphabet[symbol])
                best.append(posterior)
        last = symbol
    return Heard(" ".join("".join(letters).split()), round(sum(best) / len(best), 4) if best else None)
