"""Beam search of transformers after prompts that hold audio. The cache of each prompt is shared by its beams."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from transformers import Cache, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicLayer

from adapt.model.speech_llm import SpeechLLM
from adapt.recipe.domain import Transcribe

ROOM = 32  # a layer allocates memory for this many tokens at a time


@torch.no_grad()
def generate(
    speech_llm: SpeechLLM,
    prompts: Sequence[torch.Tensor],
    num_beams: int = Transcribe.num_beams,
    max_new_tokens: int = Transcribe.max_new_tokens,
    processors: Sequence[LogitsProcessor] = (),
    nbest: int = 1,
) -> list[list[list[int]]]:
    """The `nbest` best token sequences after each prompt `[length, hidden]`, best first, without their ends.

    transformers' own `generate` would run the prompt once for each beam; here it runs once for each utterance.
    processors: what takes part in the search beside the decoder (`fusion`).
    """
    embeds, mask = _left_padded(prompts)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = speech_llm.new_cache()
    speech_llm.forward(embeds[:, :-1], mask[:, :-1], positions[:, :-1], cache, keep=1)
    branch(cache, torch.arange(len(prompts), device=embeds.device).repeat_interleave(num_beams))
    tokens = speech_llm.generator.generate(
        inputs_embeds=embeds,
        attention_mask=mask,
        past_key_values=cache,
        num_beams=num_beams,
        num_return_sequences=nbest,
        do_sample=False,
        max_new_tokens=max_new_tokens,
        logits_processor=LogitsProcessorList(processors),
    )
    rows = [list(itertools.takewhile(lambda token: token not in speech_llm.ends, row)) for row in tokens.tolist()]
    return [rows[i : i + nbest] for i in range(0, len(rows), nbest)]


def _left_padded(prompts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as `[batch, longest, hidden]` and their attention mask. The next token of every row has one column."""
    lengths = [len(p) for p in prompts]
    longest, hidden = max(lengths), prompts[0].shape[1]
    embeds = torch.stack([torch.cat([p.new_zeros(longest - len(p), hidden), p]) for p in prompts])
    columns = torch.arange(longest, device=embeds.device)[None]
    return embeds, (columns >= longest - torch.tensor(lengths, device=embeds.device)[:, None]).long()


class _BeamLayer(DynamicLayer):
    """Keys and values of beams. `DynamicLayer` copies all of them twice a step: to reorder the beams, and to append.

    Beams are reordered within their utterance only, so its prompt can stay where it is. New tokens go into memory that
    was allocated for them.
    """

    def __init__(self, layer: DynamicLayer, rows: torch.Tensor):
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self._prompt = layer.get_seq_length()
        self._keys, self._values = (x.index_select(0, rows.to(x.device)) for x in (layer.keys, layer.values))
        self.keys, self.values = self._keys, self._values

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self._keys.shape[-2]:
            more = end - start + ROOM
            self._keys, self._values = (F.pad(x, (0, 0, 0, more)) for x in (self.keys, self.values))
        self._keys[..., start:end, :] = key_states
        self._values[..., start:end, :] = value_states
        self.keys, self.values = self._keys[..., :end, :], self._values[..., :end, :]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        for written in (self.keys[..., self._prompt :, :], self.values[..., self._prompt :, :]):
            written.copy_(written.index_select(0, beam_idx.to(written.device)))


def branch(cache: Cache, rows: torch.Tensor) -> None:
    """Turn the cache of prompts, one row for each utterance, into that of beams, in place. rows: the row of each beam.

    Only layers of full attention become `_BeamLayer`. Others, such as Mamba's states, keep their own way to reorder.
    """
    for i, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            cache.layers[i] = _BeamLayer(layer, rows)
        else:
            layer.reorder_cache(rows)
