"""A speech LLM composed of an audio encoder with a CTC head, frame stacking, a projector and any causal LM.

samples -> encoder's input -> encoder [frames, hidden] -> `stack` frames side by side -> projector
-> audio embeddings [slots, LM hidden] -> the LM's input embeddings
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Cache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import CausalLMOutputWithPast

from adapt.model.encoders import CtcEncoder, CtcEncoderConfig
from adapt.model.families import OWN_TYPE
from adapt.model.first_pass import FirstPass
from adapt.model.unit_ctc import UnitCtc


class ComposedConfig(PreTrainedConfig):
    """Configuration of a composed speech LLM.

    audio_config, alphabet: those of a `CtcEncoderConfig`. text_config: the config of any causal LM. stack:
    encoder frames in one audio embedding. projector: one of PROJECTORS, or `first-pass` (`FirstPass`), which makes an
    audio embedding for each token in the encoder's transcript. projector_size: its hidden width. prompt:
    the prompt template (`text.template`). audio_token_id: the token that stands for an audio embedding in
    `input_ids`; it need not be in the LM's vocabulary. max_seconds: the longest recording that the model was
    trained on; longer ones are cut. units: the number of units in the CTC head over the LLM's tokens (`UnitCtc`);
    0: no such head. slots: `all` audio embeddings are the LLM's input, or one for each unit that this head hears
    (`units`). whole_stacks: True drops frames beyond the last full stack, as SLAM-LLM does; False fills that
    stack with zeros.
    """

    model_type = OWN_TYPE
    sub_configs_defaults = {
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="parakeet_ctc"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    audio_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    stack: int = 2
    projector: str = "mlp"
    projector_size: int = 256
    alphabet: str = "abcdefghijklmnopqrstuvwxyz' "
    prompt: str = "<speech>"
    audio_token_id: int = 4
    max_seconds: float = 30.0
    units: int = 0
    slots: str = "all"
    whole_stacks: bool = False


class _Linear(nn.Module):
    """Stacked frames, then one linear layer (2307.11795)."""

    def __init__(self, stack: int, width: int, hidden: int, out: int):
        super().__init__()
        self.stack = stack
        self.linear = nn.Linear(width * stack, out)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """`[batch, frames, width]` -> `[batch, ceil(frames / stack), out]`; the last stack is zero-padded."""
        return self.linear(_stacked(frames, self.stack))


class _Mlp(nn.Module):
    """Stacked frames, then linear, ReLU, linear, as in SLAM-ASR (2402.08846)."""

    def __init__(self, stack: int, width: int, hidden: int, out: int):
        super().__init__()
        self.stack = stack
        self.linear1 = nn.Linear(width * stack, hidden)
        self.linear2 = nn.Linear(hidden, out)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Shapes as in `_Linear.forward`."""
        return self.linear2(self.linear1(_stacked(frames, self.stack)).relu())


class _Normalised(nn.Module):
    """Stacked frames, then linear, layer normalisation, GELU, linear; all outputs have the norm `scale`.

    `compose` sets the norm to the mean norm of the LLM's token embeddings.
    """

    def __init__(self, stack: int, width: int, hidden: int, out: int):
        super().__init__()
        self.stack = stack
        self.linear1 = nn.Linear(width * stack, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.linear2 = nn.Linear(hidden, out)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Shapes as in `_Linear.forward`."""
        hidden = nn.functional.gelu(self.norm(self.linear1(_stacked(frames, self.stack))))
        return nn.functional.normalize(self.linear2(hidden).float(), dim=-1) * self.scale


class _Conv(nn.Module):
    """A convolution over `2 * stack` frames with stride `stack` (neighbours overlap by half), then ReLU, linear."""

    def __init__(self, stack: int, width: int, hidden: int, out: int):
        super().__init__()
        self.stack = stack
        self.conv = nn.Conv1d(width, hidden, 2 * stack, stride=stack)
        self.linear = nn.Linear(hidden, out)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Shapes as in `_Linear.forward`."""
        before = self.stack // 2
        after = self.stack - before + -frames.shape[1] % self.stack
        padded = nn.functional.pad(frames.transpose(1, 2), (before, after))
        return self.linear(self.conv(padded).transpose(1, 2).relu())


def _stacked(frames: torch.Tensor, stack: int) -> torch.Tensor:
    """`[batch, frames, width]` -> `[batch, ceil(frames / stack), stack * width]`; zeros fill the last stack."""
    padded = nn.functional.pad(frames, (0, 0, 0, -frames.shape[1] % stack))
    return padded.unflatten(1, (-1, stack)).flatten(2)


PROJECTORS: dict[str, type[nn.Module]] = {
    "linear": _Linear,
    "mlp": _Mlp,
    "conv": _Conv,
    "normalised": _Normalised,
}


class ComposedForSpeechRecognition(PreTrainedModel, GenerationMixin):
    """The composed speech LLM as a model of transformers.

    Its inputs are `input_features` and `input_ids` with `audio_token_id` in the slot, or `inputs_embeds`. The encoder's
    `CtcEncoder.inputs` turns samples into `input_features`.
    """

    config_class = ComposedConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("audio", "text")
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: ComposedConfig):
        super().__init__(config)
        self.encoder = CtcEncoder(CtcEncoderConfig(audio_config=config.audio_config, alphabet=config.alphabet))
        width, out = self.encoder.width, config.text_config.hidden_size
        if config.projector == "first-pass":
            settings = self.encoder.encoder.config.first_pass
            self.projector = FirstPass(settings, width, config.projector_size, out)
        else:
            self.projector = PROJECTORS[config.projector](config.stack, width, config.projector_size, out)
        self.unit_ctc = UnitCtc(config.units, out) if config.units else None
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        # The LM ties its weights; saving and loading look for their names here.
        ties = getattr(self.language_model, "_tied_weights_keys", None) or {}
        self._tied_weights_keys = {f"language_model.{k}": f"language_model.{v}" for k, v in ties.items()}
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def get_audio_features(
        self, input_features: torch.Tensor, feature_attention_mask: torch.Tensor
    ) -> list[torch.Tensor]:
        """Audio embeddings `[slots, LM hidden]` of each utterance."""
        return self.project(*self.encoder.frames(input_features, feature_attention_mask))

    def project(self, frames: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
        """Audio embeddings `[slots, LM hidden]` of each utterance, from the frames and counts of `encoder.frames`."""
        return self.slots(self.stacks(frames, lengths))

    def stacks(self, frames: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
        """An audio embedding for each stack of frames, `[stacks, LM hidden]` of each utterance.

        Of an encoder that transcribes, one for each token.
        """
        if isinstance(self.projector, FirstPass):
            rows = [row[:n] for row, n in zip(frames, lengths.tolist(), strict=True)]
            tokens = self.first_pass_tokens(rows)
            return [self.projector(*pair, self._table()) for pair in zip(rows, tokens, strict=True)]
        stack = self.config.stack
        counts = lengths // stack if self.config.whole_stacks else -(-lengths // stack)
        return [row[:count] for row, count in zip(self.projector(frames), counts.tolist(), strict=True)]

    def first_pass(self, frames: torch.Tensor, lengths: torch.Tensor) -> list[list[int]]:
        """The LLM's tokens in the encoder's transcript of each utterance, one for each audio embedding."""
        rows = [row[:n] for row, n in zip(frames, lengths.tolist(), strict=True)]
        return list(map(self.transcript_ids, self.first_pass_tokens(rows)))

    @torch.no_grad()
    def first_pass_choices(self, heard: torch.Tensor, least: float) -> list[list[tuple[int, float]]]:
        """`FirstPass.choices` of one recording. heard: `FirstPass.spoken_tokens`, `[tokens, width]`."""
        return self.projector.choices(heard, self.encoder.encoder.readout(), least)

    @torch.no_grad()
    def first_pass_tokens(self, heard: Sequence[torch.Tensor]) -> list[list[int]]:
        """The encoder's tokens of its transcript of each recording. heard: as in `first_pass_choices`, or frames."""
        return self.projector.tokens(heard, self.encoder.encoder.readout())

    def transcript_ids(self, tokens: Sequence[int]) -> list[int]:
        """The LLM's tokens of a transcript in tokens of the encoder."""
        return self.projector.ids_of(tokens)

    @torch.no_grad()
    def first_pass_slot(self, heard: torch.Tensor, tokens: Sequence[int]) -> torch.Tensor:
        """Audio embeddings `[slots, LM hidden]` of one recording with these tokens in place of the encoder's own."""
        return self.projector(heard, tokens, self._table())

    def _table(self) -> torch.Tensor:
        """The token embeddings of the LM, without gradients."""
        return self.get_input_embeddings().weight.detach()

    def slots(self, stacks: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The audio embeddings that the LLM gets, of those for each stack of frames: all of them, or one for a unit."""
        if self.config.slots == "all":
            return list(stacks)
        table = self.get_input_embeddings().weight
        return [self.unit_ctc.heard(row, table) for row in stacks]

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        feature_attention_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Logits over the LM's vocabulary.

        Raises `ValueError` if the numbers of slot positions and audio embeddings differ.
        """
        if inputs_embeds is None:
            in_slot = (input_ids == self.config.audio_token_id)[..., None]
            inputs_embeds = self.get_input_embeddings()(input_ids.masked_fill(in_slot[..., 0], 0))
            if input_features is not None:
                slots = torch.cat(self.get_audio_features(input_features, feature_attention_mask))
                if int(in_slot.sum()) != len(slots):
                    raise ValueError(f"{int(in_slot.sum())} slot positions for {len(slots)} audio embeddings")
                inputs_embeds = inputs_embeds.masked_scatter(in_slot, slots.to(inputs_embeds.dtype))
        return self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def prepare_inputs_for_generation(self, input_ids, inputs_embeds=None, is_first_iteration=False, **kwargs):
        # `generate` accepts `inputs_embeds` only where this method has an argument of that name.
        inputs = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        if not is_first_iteration:
            inputs["input_features"] = inputs["feature_attention_mask"] = None  # the cache holds the audio already
        return inputs


AutoConfig.register(ComposedConfig.model_type, ComposedConfig)
