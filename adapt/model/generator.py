"""The decoder of any speech LLM in the form that `generate` of transformers expects: prompt rows in, logits out.

Families override `generate` and the preparation of its inputs in different ways: some refuse embeddings, one switches
off its LoRA. `Generator` bypasses these overrides, so that decoding is the same for every family.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn
from transformers import (
    Cache,
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import CausalLMOutputWithPast


class Decodable(Protocol):
    """The part of a speech LLM that `Generator` uses. ends: tokens that end a transcript, at least one."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    ends: list[int]

    @property
    def device(self) -> torch.device: ...

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows `[..., width]` of token ids."""
        ...

    def forward(
        self,
        rows: torch.Tensor,
        mask: torch.Tensor | None,
        positions: torch.Tensor | None,
        cache: Cache | None,
        keep: int,
    ) -> torch.Tensor:
        """Logits `[batch, length, vocabulary]` of rows `[batch, length, width]`; of the last `keep` unless 0."""
        ...


class _Rows(nn.Module):
    """The input embeddings: rows `[..., width]` of token ids."""

    def __init__(self, speech_llm: Decodable):
        super().__init__()
        self._rows = speech_llm.rows

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self._rows(ids)


class Generator(PreTrainedModel, GenerationMixin):
    """The decoder as a model of transformers. `inputs_embeds`: rows `[batch, length, width]` of the speech LLM."""

    main_input_name = "input_ids"
    base_model_prefix = ""
    _supports_attention_backend = _supports_sdpa = True

    def __init__(self, speech_llm: Decodable):
        super().__init__(PreTrainedConfig())  # the config of a family expects the class of that family
        self._forward, self._rows = speech_llm.forward, _Rows(speech_llm)
        self._device, self._dtype = speech_llm.device, speech_llm.model.dtype
        self.config = speech_llm.model.config
        self._is_stateful = getattr(speech_llm.model, "_is_stateful", False)
        ends, padding = speech_llm.ends, speech_llm.tokenizer.pad_token_id
        self.generation_config = GenerationConfig(
            eos_token_id=ends, pad_token_id=ends[0] if padding is None else padding
        )

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    def get_input_embeddings(self) -> nn.Module:
        return self._rows

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        rows = self._rows(input_ids) if inputs_embeds is None else inputs_embeds
        logits = self._forward(rows, attention_mask, position_ids, past_key_values, logits_to_keep)
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)
