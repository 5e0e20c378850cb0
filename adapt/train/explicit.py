"""Explicit alignment losses: losses between audio embeddings and token embeddings, added to the transcript's loss."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from adapt.model.encoders import BLANK
from adapt.model.speech_llm import SpeechLLM
from adapt.train.ctc import ctc_loss
from adapt.train.pseudo_audio import symbol_ids


@dataclass(frozen=True)
class SlotBatch:
    """The slots of a batch: the input of an explicit loss.

    audio_embeddings: `[batch, slots, hidden]`. lengths: slots of each row `[batch]`. units: those of each transcript
    (`train.units`); empty without units. ctc_logits: of the encoder frames, `[batch, frames, characters + 1]`.
    """

    speech_llm: SpeechLLM
    audio_embeddings: torch.Tensor
    lengths: torch.Tensor
    units: Sequence[Sequence[int]]
    ctc_logits: torch.Tensor

    @functools.cached_property
    def token_embeddings(self) -> torch.Tensor:
        """The decoder's table `[vocabulary, hidden]`, float32, without a gradient."""
        return self.speech_llm.model.get_input_embeddings().weight.detach().float()

    @functools.cached_property
    def inside(self) -> torch.Tensor:
        """`[batch, slots]`: True for slots that are not padding."""
        slots = torch.arange(self.audio_embeddings.shape[1], device=self.audio_embeddings.device)
        return slots[None] < self.lengths[:, None]


def letter_distance(batch: SlotBatch) -> torch.Tensor:
    """Mean squared distance of audio embeddings to the letters of the CTC posteriors.

    The target of a slot is the mean over its frames of the letters' token embeddings, weighted by their posteriors. The
    unit is the mean square of a letter's embedding.
    """
    symbols, config = symbol_ids(batch.speech_llm), batch.speech_llm.model.config
    letters = batch.token_embeddings[[symbols[c] for c in [*config.alphabet, BLANK]]]
    expected = batch.ctc_logits.detach().float().softmax(-1) @ letters
    expected = F.pad(expected, (0, 0, 0, -expected.shape[1] % config.stack)).unflatten(1, (-1, config.stack)).mean(2)
    distance = (batch.audio_embeddings.float() - expected).square().sum(-1)[batch.inside].mean()
    return distance / letters.square().sum(-1).mean()


def unit_ctc(batch: SlotBatch) -> torch.Tensor:
    """CTC over the units of the model's `UnitCtc`."""
    head = batch.speech_llm.model.unit_ctc
    logits = head(batch.audio_embeddings, batch.speech_llm.model.get_input_embeddings().weight)
    index = {unit: place for place, unit in enumerate(head.units.tolist())}
    targets = [[index[unit] for unit in units if unit in index] for units in batch.units]
    return ctc_loss(logits, batch.lengths, targets, len(head.units))


# The losses by name. None: no explicit loss.
EXPLICIT: dict[str, Callable[[SlotBatch], torch.Tensor] | None] = {
    "none": None,
    "letters": letter_distance,
    "ctc": unit_ctc,
}
