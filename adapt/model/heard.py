"""What an audio encoder heard of recordings: audio embeddings, and what fusion reads besides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from adapt.model.encoders import CtcEncoder
from adapt.model.features import pad
from adapt.model.speech_llm import SpeechLLM

KEPT = 2**30  # bytes of it that are kept in memory


class Listed(NamedTuple):
    """What an encoder that transcribes heard of a recording after it read a list of names.

    slot, heard: as `embeddings_and_heard` returns them. evidence: how much the audio speaks for this transcript against
    the one without the list, in nats (`TranscribingWhisper.frames_after`).
    """

    slot: torch.Tensor
    heard: torch.Tensor
    evidence: float


@torch.no_grad()
def embeddings_and_heard(
    speech_llm: SpeechLLM, samples: Sequence[np.ndarray]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The audio embeddings of each recording, and the CTC head's log posteriors `[frames, alphabet + 1]`, blank last.

    Of an encoder that transcribes, `FirstPass.spoken_tokens` instead of posteriors; of one that does neither, `[0]`.
    samples: mono, float32, 16 kHz.
    """

    def hear(places: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        recordings = [samples[i] for i in places]
        if not (speech_llm.has_ctc or speech_llm.transcribes):
            return [(slot, torch.zeros(0)) for slot in speech_llm.audio_embeddings(recordings)]
        model, (frames, lengths) = speech_llm.model, speech_llm.frames(recordings)
        if speech_llm.transcribes:
            rows = _spoken_tokens(speech_llm, frames, lengths)
        else:
            rows = _rows(model.encoder.ctc(frames).float().log_softmax(-1), lengths)
        return list(zip(model.project(frames, lengths), rows, strict=True))

    found = _remembered(speech_llm, [_key(recording) for recording in samples], hear)
    return [slot for slot, _ in found], [row for _, row in found]


@torch.no_grad()
def heard_after_lists(
    speech_llm: SpeechLLM,
    samples: Sequence[np.ndarray],
    heard: Sequence[torch.Tensor],
    lists: Sequence[Sequence[str]],
) -> list[Listed]:
    """What an encoder that transcribes heard of each recording after a list of names.

    heard: what it heard without, of `embeddings_and_heard`.
    """

    def hear(places: Sequence[int]) -> list[Listed]:
        model = speech_llm.model
        inputs, mask = CtcEncoder.inputs(
            model.encoder, *(x.to(speech_llm.device) for x in pad([samples[i] for i in places]))
        )
        tokens = [model.projector.list_tokens(lists[i]) for i in places]
        plain = [[best for (best, _), *_ in model.first_pass_choices(heard[i], 0.0)] for i in places]
        frames, lengths, evidence = model.encoder.encoder.frames_after(inputs, mask.sum(-1), tokens, plain)
        rows = _spoken_tokens(speech_llm, frames, lengths)
        return list(map(Listed, model.project(frames, lengths), rows, evidence))

    keys = [_key(recording, own) for recording, own in zip(samples, lists, strict=True)]
    return _remembered(speech_llm, keys, hear)


def _key(recording: np.ndarray, names: Sequence[str] = ()) -> bytes:
    """A recording and the names before it, as a key of what is remembered."""
    return hashlib.sha256(np.ascontiguousarray(recording).tobytes() + "\n".join(names).encode()).digest()


def _remembered(speech_llm: SpeechLLM, keys: Sequence[bytes], hear: Callable[[Sequence[int]], list]) -> list:
    """What was heard for each key. hear: takes the places of keys that are not remembered."""
    kept = {} if speech_llm.heard is None else speech_llm.heard
    new = {key: place for place, key in enumerate(keys) if key not in kept}
    found = dict(zip(new, hear(list(new.values())) if new else [], strict=True))
    rows = [found.get(key) or kept[key] for key in keys]
    if speech_llm.heard is not None and _size([*kept.values(), *found.values()]) <= KEPT:
        speech_llm.heard |= found
    return rows


def _size(heard: Sequence[tuple]) -> int:
    """The bytes of tensors."""
    return sum(value.nbytes for row in heard for value in row if isinstance(value, torch.Tensor))


def _spoken_tokens(speech_llm: SpeechLLM, frames: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
    """`FirstPass.spoken_tokens` of each recording."""
    return list(map(speech_llm.model.projector.spoken_tokens, _rows(frames, lengths)))


def _rows(padded: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
    """The rows of a batch `[batch, length, ...]` without their padding, as copies."""
    return [row[:n].clone() for row, n in zip(padded, lengths.tolist(), strict=True)]
