"""What an audio encoder heard of recordings: audio embeddings, and what fusion reads besides."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from adapt.model.encoders import CtcEncoder
from adapt.model.features import pad
from adapt.model.speech_llm import SpeechLLM

KEPT = 2_000  # recordings, with and without names, of which it is kept in memory


@torch.no_grad()
def embeddings_and_heard(
    speech_llm: SpeechLLM, samples: Sequence[np.ndarray], names: Sequence[Sequence[str]] | None = None
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The audio embeddings of each recording, and the CTC head's log posteriors `[frames, alphabet + 1]`, blank last.

    Of an encoder that transcribes, `FirstPass.spoken_tokens` instead of posteriors. samples: mono, float32, 16 kHz.
    names: those that such an encoder reads before each recording; None: none.
    """
    lists = [tuple(own) for own in names] if names and speech_llm.transcribes else [()] * len(samples)
    kept = {} if speech_llm.heard is None else speech_llm.heard
    keys = [
        hashlib.sha256(np.ascontiguousarray(row).tobytes() + "\n".join(own).encode()).digest()
        for row, own in zip(samples, lists, strict=True)
    ]
    new = {key: place for place, key in enumerate(keys) if key not in kept}
    places = new.values()
    found = dict(zip(new, _heard(speech_llm, [samples[i] for i in places], [lists[i] for i in places]), strict=True))
    both = [found.get(key) or kept[key] for key in keys]
    if speech_llm.heard is not None and len(speech_llm.heard) < KEPT:
        speech_llm.heard |= found
    return [slot for slot, _ in both], [row for _, row in both]


def _heard(
    speech_llm: SpeechLLM, samples: Sequence[np.ndarray], lists: Sequence[Sequence[str]]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Audio embeddings, and posteriors or tokens, of each recording."""
    if not samples:
        return []
    model = speech_llm.model
    if any(lists):
        inputs, mask = CtcEncoder.inputs(model.encoder, *(x.to(speech_llm.device) for x in pad(samples)))
        tokens = list(map(model.projector.list_tokens, lists))
        frames, lengths = model.encoder.encoder.frames(inputs, mask.sum(-1), tokens)
    else:
        frames, lengths = speech_llm.frames(samples)
    logs = frames if speech_llm.transcribes else model.encoder.ctc(frames).float().log_softmax(-1)
    rows = [row[:n].clone() for row, n in zip(logs, lengths.tolist(), strict=True)]
    rows = map(model.projector.spoken_tokens, rows) if speech_llm.transcribes else rows
    return list(zip(model.project(frames, lengths), rows, strict=True))
