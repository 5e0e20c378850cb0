"""Beam search of transformers after prompts with audio. All beams of an utterance share the cache of its prompt.

Utterances that are finished leave the batch: the decoder computes nothing for them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from transformers import Cache, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

from adapt.model.generator import Generator
from adapt.model.speech_llm import SpeechLLM
from adapt.recipe.domain import Transcribe

ALLOCATED = 32  # a layer allocates memory for this many tokens at a time


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

    The `generate` of transformers would process the prompt once for each beam; here it is processed once for each
    utterance. processors: the logits processors of fusion (`Fusion.processors`).
    """
    embeds, mask = _left_padded(prompts)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = speech_llm.new_cache()
    speech_llm.forward(embeds[:, :-1], mask[:, :-1], positions[:, :-1], cache, keep=1)
    branch(cache, torch.arange(len(prompts), device=embeds.device).repeat_interleave(num_beams))
    tokens = _Batch(speech_llm, len(prompts), num_beams).generate(
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
    """Left-padded prompts `[batch, longest, hidden]`, and their attention mask `[batch, longest]`."""
    lengths = [len(p) for p in prompts]
    longest, hidden = max(2, *lengths), prompts[0].shape[1]  # `generate` reads the last embedding apart from the others
    embeds = torch.stack([torch.cat([p.new_zeros(longest - len(p), hidden), p]) for p in prompts])
    columns = torch.arange(longest, device=embeds.device)[None]
    return embeds, (columns >= longest - torch.tensor(lengths, device=embeds.device)[:, None]).long()


class _Batch(Generator):
    """The decoder in one search: `generate` sees the beams of all utterances, the decoder those that are in the cache.

    Leaving copies the cache. So finished utterances leave together, once they are half of those in the cache. Their
    logits are those of another utterance from then on; whatever they are, the transcripts stay as they are.
    """

    def __init__(self, speech_llm: SpeechLLM, utterances: int, num_beams: int):
        super().__init__(speech_llm)
        self._num_beams = num_beams
        self._ends = torch.tensor(speech_llm.ends, device=self.device)
        self._runs = torch.ones(utterances, dtype=torch.bool, device=self.device)
        self._beams = torch.arange(utterances * num_beams, device=self.device)  # those in the cache, in order

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        if input_ids is not None:
            self._let_leave(input_ids[:, -1], past_key_values)
        inputs = (input_ids, inputs_embeds, attention_mask, position_ids)
        kept = (x if x is None else x[self._beams] for x in inputs)
        output = super().forward(*kept, past_key_values, **kwargs)
        if len(self._beams) < len(self._runs) * self._num_beams:
            rows = self._beams.new_zeros(len(self._runs) * self._num_beams)
            rows[self._beams] = torch.arange(len(self._beams), device=rows.device)
            output.logits = output.logits[rows]
        return output

    def _let_leave(self, tokens: torch.Tensor, cache: Cache) -> None:
        """Remove finished utterances from the cache. tokens: the last of each beam."""
        self._runs &= ~torch.isin(tokens, self._ends).view(-1, self._num_beams).all(-1)  # greedy search
        (stay,) = self._runs.repeat_interleave(self._num_beams)[self._beams].nonzero(as_tuple=True)
        if 0 < len(stay) <= len(self._beams) / 2:
            branch(cache, stay)
            self._beams = self._beams[stay]

    def _check_early_stop_heuristic(self, *args, **kwargs) -> torch.Tensor:
        # Private in transformers. Only here does its beam search say which utterances no running beam can improve.
        improves = super()._check_early_stop_heuristic(*args, **kwargs)
        self._runs = improves[:, 0]
        return improves

    def _reorder_cache(self, cache: Cache, beams: torch.Tensor) -> Cache:
        cache.reorder_cache(torch.searchsorted(self._beams, beams.long()[self._beams]))
        return cache


class _BeamLayer(DynamicLayer):
    """Keys and values of beams, without the copies of `DynamicLayer`, which copies all of them twice in each step.

    Beams are reordered within their utterance only, so that the prompt is not copied. New tokens are written to memory
    that is allocated in advance.
    """

    def __init__(self, layer: DynamicLayer, rows: torch.Tensor):
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self._prompt = layer._prompt if isinstance(layer, _BeamLayer) else layer.get_seq_length()
        self._keys, self._values = (x.index_select(0, rows.to(x.device)) for x in (layer.keys, layer.values))
        self.keys, self.values = self._keys, self._values

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self._keys.shape[-2]:
            new = end - start + ALLOCATED
            self._keys, self._values = (F.pad(x, (0, 0, 0, new)) for x in (self.keys, self.values))
        self._keys[..., start:end, :] = key_states
        self._values[..., start:end, :] = value_states
        self.keys, self.values = self._keys[..., :end, :], self._values[..., :end, :]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        for generated in (self.keys[..., self._prompt :, :], self.values[..., self._prompt :, :]):
            generated.copy_(generated.index_select(0, beam_idx.to(generated.device)))


def branch(cache: Cache, rows: torch.Tensor) -> None:
    """Turn a cache into that of beams, in place. rows: for each beam, the row of its prompt, or of the beam in `cache`.

    Layers of full attention become a `_BeamLayer`. Others, such as Mamba's states, stay as they are.
    """
    for i, layer in enumerate(cache.layers):
        if type(layer) in (DynamicLayer, _BeamLayer) and layer.is_initialized:
            cache.layers[i] = _BeamLayer(layer, rows)
        else:
            layer.reorder_cache(rows)
