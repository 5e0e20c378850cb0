"""What an audio encoder heard of recordings: audio embeddings, and what fusion reads besides."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from adapt.model.encoders import CtcEncoder
from adapt.model.features import pad
from adapt.model.speech_llm import SpeechLLM


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

    def hear() -> list[tuple[torch.Tensor, torch.Tensor]]:
        if not (speech_llm.has_ctc or speech_llm.transcribes):
            return [(slot, torch.zeros(0)) for slot in speech_llm.audio_embeddings(samples)]
        model, (frames, lengths) = speech_llm.model, speech_llm.frames(samples)
        if speech_llm.transcribes:
            rows = _spoken_tokens(speech_llm, frames, lengths)
        else:
            rows = _rows(model.encoder.ctc(frames).float().log_softmax(-1), lengths)
        return list(zip(model.project(frames, lengths), rows, strict=True))

    found = _remembered(speech_llm, _key(samples), hear)
    return [slot for slot, _ in found], [row for _, row in found]


@torch.no_grad()
def heard_after_lists(
    speech_llm: SpeechLLM,
    samples: Sequence[np.ndarray],
    heard: Sequence[torch.Tensor],
    lists: Sequence[tuple[int, Sequence[str]]],
    written: Sequence[Sequence[int]] | None = None,
) -> list[Listed]:
    """What an encoder that transcribes heard of recordings after lists of names.

    heard: what it heard of each without, of `embeddings_and_heard`. lists: the place of a recording, and names; one
    recording may have several lists, or none. written: tokens of the transcript after each list; None: the encoder
    writes them.
    """
    model = speech_llm.model
    plain = model.first_pass_tokens(heard)

    def hear() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        after = model.encoder.encoder.frames_after
        frames, lengths, evidence = after(*_inputs(speech_llm, samples, lists), plain, written)
        rows = _spoken_tokens(speech_llm, frames, lengths)
        odds = torch.tensor(evidence, dtype=torch.float64)
        return list(zip(model.project(frames, lengths), rows, odds, strict=True))

    found = _remembered(speech_llm, _key(samples, lists, plain, written), hear)
    return [Listed(slot, row, float(evidence)) for slot, row, evidence in found]


@torch.no_grad()
def log_odds(
    speech_llm: SpeechLLM,
    samples: Sequence[np.ndarray],
    heard: Sequence[torch.Tensor],
    lists: Sequence[tuple[int, Sequence[str]]],
    written: Sequence[Sequence[int]],
) -> list[float]:
    """How much likelier each transcript `written` is than that without a list, in nats, where the list is read.

    The arguments are those of `heard_after_lists`.
    """
    plain = speech_llm.model.first_pass_tokens(heard)

    def weigh() -> list[tuple[torch.Tensor]]:
        inputs = _inputs(speech_llm, samples, lists)
        odds = speech_llm.model.encoder.encoder.log_odds(*inputs, plain, written)
        return [(torch.tensor(one, dtype=torch.float64),) for one in odds]

    found = _remembered(speech_llm, _key(samples, "log odds", lists, plain, written), weigh)
    return [float(odds) for (odds,) in found]


def _inputs(
    speech_llm: SpeechLLM, samples: Sequence[np.ndarray], lists: Sequence[tuple[int, Sequence[str]]]
) -> tuple[torch.Tensor, torch.Tensor, list[tuple[int, list[int]]]]:
    """Recordings and lists as `TranscribingWhisper` takes them."""
    model = speech_llm.model
    inputs, mask = CtcEncoder.inputs(model.encoder, *(x.to(speech_llm.device) for x in pad(samples)))
    return inputs, mask.sum(-1), [(place, model.projector.list_tokens(names)) for place, names in lists]


def _key(samples: Sequence[np.ndarray], *others: object) -> bytes:
    """A batch of recordings and what else the result depends on, as a key of what is remembered.

    Recordings are not remembered one by one: their batch has an effect on the last bits.
    """
    digest = hashlib.sha256(json.dumps([list(map(len, samples)), *others]).encode())
    for recording in samples:
        digest.update(np.ascontiguousarray(recording).data)
    return digest.digest()


def _remembered(speech_llm: SpeechLLM, key: bytes, hear: Callable[[], list[tuple]]) -> list[tuple]:
    """What was heard of a batch. hear: computes it if it is not remembered."""
    if speech_llm.heard is None:
        return hear()
    rows = speech_llm.heard.find(key, speech_llm.device)
    if rows is None:
        speech_llm.heard.keep(key, rows := hear())
    return rows


def _spoken_tokens(speech_llm: SpeechLLM, frames: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
    """`FirstPass.spoken_tokens` of each recording."""
    return list(map(speech_llm.model.projector.spoken_tokens, _rows(frames, lengths)))


def _rows(padded: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
    """The rows of a batch `[batch, length, ...]` without their padding, as copies."""
    return [row[:n].clone() for row, n in zip(padded, lengths.tolist(), strict=True)]
