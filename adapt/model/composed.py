"""A speech LLM built from parts: Conformer-CTC encoder, frame stacking, projector, any causal LM.

log-mel [frames, bins] -> ParakeetForCTC encoder [frames / 4, hidden] -> every `stack` frames side by side
-> projector (linear, ReLU, linear) -> slot vectors [slots, LM hidden] -> the LM's input embeddings
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Cache,
    GenerationMixin,
    ParakeetCTCConfig,
    ParakeetForCTC,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import CausalLMOutputWithPast


class ComposedConfig(PreTrainedConfig):
    """Configuration of a composed speech LLM.

    `audio_config`: a `ParakeetCTCConfig`. `text_config`: the config of any causal LM. `stack`: encoder frames
    side by side in one slot vector. `projector_size`: hidden width of the projector. `alphabet`: characters of
    the CTC head in the order of its outputs; its blank comes last. `prompt`: template with one `<speech>`.
    `audio_token_id`: the token that stands for a slot vector in `input_ids`. `max_seconds`: the longest recording that
    it was trained for; longer ones are cut.
    """

    model_type = "adapt_composed"
    sub_configs_defaults = {
        "audio_config": ParakeetCTCConfig,
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    audio_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    stack: int = 2
    projector_size: int = 256
    alphabet: str = "abcdefghijklmnopqrstuvwxyz' "
    prompt: str = "<speech>"
    audio_token_id: int = 4
    max_seconds: float = 30.0


class Projector(nn.Module):
    """Stack `stack` frames and map them into the LM's embedding space: linear, ReLU, linear."""

    def __init__(self, config: ComposedConfig):
        super().__init__()
        self.stack = config.stack
        width = config.audio_config.encoder_config.hidden_size * config.stack
        self.linear1 = nn.Linear(width, config.projector_size)
        self.linear2 = nn.Linear(config.projector_size, config.text_config.hidden_size)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """`[batch, frames, hidden]` -> `[batch, ceil(frames / stack), LM hidden]`; the last stack is zero-padded."""
        batch, length, hidden = frames.shape
        frames = nn.functional.pad(frames, (0, 0, 0, -length % self.stack))
        stacked = frames.reshape(batch, -1, hidden * self.stack)
        return self.linear2(self.linear1(stacked).relu())


class ComposedForSpeechRecognition(PreTrainedModel, GenerationMixin):
    """Takes `input_features` and `input_ids` with `audio_token_id` at the slot, or ready `inputs_embeds`."""

    config_class = ComposedConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("audio", "text")
    _supports_sdpa = True
    _supports_attention_backend = True
    # The LM ties its own weights; named here so that saving and loading know.
    _tied_weights_keys = {"language_model.lm_head.weight": "language_model.model.embed_tokens.weight"}

    def __init__(self, config: ComposedConfig):
        super().__init__(config)
        self.encoder = ParakeetForCTC(config.audio_config)
        self.projector = Projector(config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def encode(
        self, input_features: torch.Tensor, feature_attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoder frames `[batch, frames, hidden]`, zero beyond each utterance's own, and their counts `[batch]`."""
        output = self.encoder.encoder(
            input_features=input_features, attention_mask=feature_attention_mask, output_attention_mask=True
        )
        mask = output.attention_mask.bool()
        return output.last_hidden_state.masked_fill(~mask[..., None], 0.0), mask.sum(-1)

    def get_audio_features(
        self, input_features: torch.Tensor, feature_attention_mask: torch.Tensor
    ) -> list[torch.Tensor]:
        """Slot vectors `[slots, LM hidden]` of each utterance; as many as its encoder frames fill stacks."""
        return self.project(*self.encode(input_features, feature_attention_mask))

    def project(self, frames: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
        """Slot vectors of what `encode` gives."""
        slots = -(-lengths // self.config.stack)
        return [row[:count] for row, count in zip(self.projector(frames), slots.tolist(), strict=True)]

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        feature_attention_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Logits over the LM's vocabulary. Raises `ValueError` when slots and slot vectors differ in number."""
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
            if input_features is not None:
                slots = torch.cat(self.get_audio_features(input_features, feature_attention_mask))
                places = (input_ids == self.config.audio_token_id)[..., None]
                if int(places.sum()) != len(slots):
                    raise ValueError(f"{int(places.sum())} slot positions for {len(slots)} slot vectors")
                inputs_embeds = inputs_embeds.masked_scatter(places, slots.to(inputs_embeds.dtype))
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )

    def prepare_inputs_for_generation(self, input_ids, inputs_embeds=None, is_first_iteration=False, **kwargs):
        # `generate` looks for `inputs_embeds` by name here before it lets it through.
        inputs = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        if not is_first_iteration:
            inputs["input_features"] = inputs["feature_attention_mask"] = None  # in the cache already
        return inputs


AutoConfig.register(ComposedConfig.model_type, ComposedConfig)
