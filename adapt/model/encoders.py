"""Audio encoders with a CTC head over characters: new Conformers, and pretrained encoders of transformers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    GenerationConfig,
    ParakeetCTCConfig,
    ParakeetFeatureExtractor,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.configuration_utils import SubConfigSpec

from adapt.errors import ModelError
from adapt.model.features import SAMPLE_RATE, log_mel, rows
from adapt.model.first_pass import first_pass_settings
from adapt.model.transcribing_whisper import TranscribingWhisper, first_pass_log_mel
from adapt.model.whisper import WindowedWhisper, whisper_frames, whisper_last_layers, whisper_log_mel

BLANK = "_"  # the CTC blank in a path that is written out as text
Tensors = tuple[torch.Tensor, torch.Tensor]


def _toolkit_log_mel(config: PreTrainedConfig, samples: torch.Tensor, lengths: torch.Tensor) -> Tensors:
    """The features of `features.log_mel`."""
    return log_mel(samples, lengths, config.num_mel_bins)


def _parakeet_log_mel(config: PreTrainedConfig, samples: torch.Tensor, lengths: torch.Tensor) -> Tensors:
    """The features of transformers' Parakeet."""
    inputs = ParakeetFeatureExtractor(feature_size=config.num_mel_bins)(
        rows(samples, lengths), sampling_rate=SAMPLE_RATE, return_tensors="pt", device=str(samples.device)
    )
    return inputs.input_features.to(samples.device), inputs.attention_mask.bool().to(samples.device)


def _waveform(config: PreTrainedConfig, samples: torch.Tensor, lengths: torch.Tensor) -> Tensors:
    """Samples with mean 0 and standard deviation 1 in each recording, as by the wav2vec 2.0 extractor."""
    inside = torch.arange(samples.shape[1], device=samples.device)[None] < lengths.to(samples.device)[:, None]
    count = inside.sum(1, keepdim=True)
    centred = (samples - (samples * inside).sum(1, keepdim=True) / count) * inside
    return centred / (centred.square().sum(1, keepdim=True) / count + 1e-7).sqrt(), inside


def _parakeet_frames(encoder: PreTrainedModel, inputs: torch.Tensor, mask: torch.Tensor) -> Tensors:
    output = encoder(input_features=inputs, attention_mask=mask, output_attention_mask=True)
    return output.last_hidden_state, output.attention_mask.bool().sum(-1)


def _wav2vec_frames(encoder: PreTrainedModel, inputs: torch.Tensor, mask: torch.Tensor) -> Tensors:
    lengths = encoder._get_feat_extract_output_lengths(mask.sum(-1))
    if encoder.config.feat_extract_norm == "layer":
        return encoder(inputs, attention_mask=mask.long()).last_hidden_state, lengths
    if encoder.training:
        return encoder(inputs).last_hidden_state, lengths
    # The first layer normalises over time, padding included; one by one, no recording depends on its batch.
    rows = [encoder(row[None, :n]).last_hidden_state[0] for row, n in zip(inputs, mask.sum(-1).tolist(), strict=True)]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths


def _transcribing_frames(encoder: TranscribingWhisper, inputs: torch.Tensor, mask: torch.Tensor) -> Tensors:
    return encoder.frames(inputs, mask.sum(-1))


class EncoderFamily(NamedTuple):
    """The processing of audio by the encoders of one model type.

    to_inputs: (config, samples `[batch, length]`, lengths `[batch]`) -> the encoder's input and its mask.
    to_frames: (encoder, input, mask) -> frames `[batch, frames, hidden]` and their counts `[batch]`.
    first: the modules before the encoder's blocks.
    log_mel: whether the input is `[batch, frames, bins]` with a frame every 10 ms, so that it can be warped and masked
        for augmentation.
    last_layers: (encoder, lower frames, counts) -> frames of the whole encoder, if `to_frames` can stop below its last
        layers (`tuned_layers` of its config); None: it cannot.
    """

    to_inputs: Callable[[PreTrainedConfig, torch.Tensor, torch.Tensor], Tensors]
    to_frames: Callable[[PreTrainedModel, torch.Tensor, torch.Tensor], Tensors]
    first: tuple[str, ...]
    log_mel: bool = False
    last_layers: Callable[[PreTrainedModel, torch.Tensor, torch.Tensor], torch.Tensor] | None = None


ENCODERS = {
    "parakeet_encoder": EncoderFamily(_parakeet_log_mel, _parakeet_frames, ("subsampling.layers",), True),
    "wav2vec2": EncoderFamily(_waveform, _wav2vec_frames, ("feature_extractor",)),
    "hubert": EncoderFamily(_waveform, _wav2vec_frames, ("feature_extractor",)),
    "wavlm": EncoderFamily(_waveform, _wav2vec_frames, ("feature_extractor",)),
    "whisper": EncoderFamily(whisper_log_mel, whisper_frames, ("conv1", "conv2"), last_layers=whisper_last_layers),
}
TRANSCRIBING = EncoderFamily(first_pass_log_mel, _transcribing_frames, ("encoder.conv1", "encoder.conv2"))
NEW_CONFORMER = ENCODERS["parakeet_encoder"]._replace(to_inputs=_toolkit_log_mel)  # of the function `conformer`


class CtcEncoderConfig(PreTrainedConfig):
    """Configuration of a `CtcEncoder`.

    audio_config: the config of an encoder of ENCODERS, or a `ParakeetCTCConfig` for a new `conformer`. alphabet: the
    characters of the CTC head in the order of its outputs; the blank comes last.
    """

    model_type = "adapt_ctc_encoder"
    sub_configs_defaults = {"audio_config": SubConfigSpec(config_class=AutoConfig, model_type="parakeet_ctc")}

    audio_config: dict | PreTrainedConfig | None = None
    alphabet: str = "abcdefghijklmnopqrstuvwxyz' "


class CtcEncoder(PreTrainedModel):
    """Audio -> frames -> CTC logits over characters. The weights are named as those of `ParakeetForCTC`.

    The last layers of some encoders can be tuned while those below them are frozen: audio -> lower frames -> frames.
    """

    config_class = CtcEncoderConfig
    base_model_prefix = ""
    main_input_name = "inputs"
    input_modalities = ("audio",)
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: CtcEncoderConfig):
        super().__init__(config)
        self.encoder = _from_config(config.audio_config)
        self.ctc_head = nn.Conv1d(self.width, len(config.alphabet) + 1, kernel_size=1)
        self.post_init()

    @property
    def width(self) -> int:
        """Dimensions of a frame."""
        return self.encoder.config.hidden_size * (2 if self.transcribes else 1)

    @property
    def transcribes(self) -> bool:
        """Whether its frames hold a transcript (`adapt.model.first_pass`)."""
        return isinstance(self.encoder, TranscribingWhisper)

    @property
    def frame_rate(self) -> float:
        """Lower frames in a second."""
        strides = getattr(self.encoder.config, "conv_stride", None)  # of wav2vec 2.0 and its kin
        return (
            SAMPLE_RATE / math.prod(strides) if strides else 100 / getattr(self.encoder.config, "subsampling_factor", 2)
        )

    @property
    def family(self) -> EncoderFamily:
        """The processing of audio by this encoder."""
        if self.transcribes:
            return TRANSCRIBING
        is_conformer = isinstance(self.config.audio_config, ParakeetCTCConfig)
        return NEW_CONFORMER if is_conformer else ENCODERS[self.encoder.config.model_type]

    def inputs(self, samples: torch.Tensor, lengths: torch.Tensor) -> Tensors:
        """The encoder's input and its mask, for float32 samples `[batch, length]` that are zero beyond `lengths`."""
        inputs, mask = self.family.to_inputs(self.encoder.config, samples, lengths)
        return inputs.to(self.dtype), mask

    def frames(self, inputs: torch.Tensor, mask: torch.Tensor) -> Tensors:
        """Frames `[batch, frames, hidden]`, zero beyond the end of each utterance, and their counts `[batch]`."""
        return self.upper_frames(*self.lower_frames(inputs, mask))

    def lower_frames(self, inputs: torch.Tensor, mask: torch.Tensor) -> Tensors:
        """As `frames`, but below the encoder's tuned layers."""
        frames, lengths = self.family.to_frames(self.encoder, inputs, mask)
        return _zero_beyond(frames, lengths), lengths

    def upper_frames(self, frames: torch.Tensor, lengths: torch.Tensor) -> Tensors:
        """The frames above `lower_frames`; the same without tuned layers."""
        if self.family.last_layers:
            frames = _zero_beyond(self.family.last_layers(self.encoder, frames, lengths), lengths)
        return frames, lengths

    def ctc(self, frames: torch.Tensor) -> torch.Tensor:
        """CTC logits `[batch, frames, characters + 1]` of frames `[batch, frames, hidden]`; the blank comes last."""
        return self.ctc_head(frames.transpose(1, 2)).transpose(1, 2)

    def forward(self, inputs: torch.Tensor, mask: torch.Tensor) -> Tensors:
        """CTC logits `[batch, frames, characters + 1]` and the counts of frames `[batch]`."""
        frames, lengths = self.frames(inputs, mask)
        return self.ctc(frames), lengths

    def freeze(self, part: str) -> None:
        """Freeze a part of the encoder: `none`, `first` (the modules before its blocks), or `all`.

        The CTC head is never frozen.
        """
        modules = {"none": [], "first": self.family.first, "all": [""]}[part]
        for name in modules:
            self.encoder.get_submodule(name).requires_grad_(False)


def _zero_beyond(frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The frames with zeros beyond the end of each utterance."""
    outside = torch.arange(frames.shape[1], device=frames.device)[None] >= lengths[:, None]
    return frames.masked_fill(outside[..., None], 0.0)


def _from_config(config: PreTrainedConfig) -> PreTrainedModel:
    """An encoder with random weights."""
    if isinstance(config, ParakeetCTCConfig):
        return AutoModel.from_config(config.encoder_config)
    if config.model_type == "whisper":
        return TranscribingWhisper(config) if getattr(config, "first_pass", None) else WindowedWhisper(config)
    return AutoModel.from_config(config)


def conformer(
    alphabet: str, *, hidden_size: int, layers: int, heads: int, channels: int, subsampling: int
) -> CtcEncoder:
    """A Conformer with random weights, as a `CtcEncoder`.

    layers: the number of blocks. channels: of the convolutions before them. subsampling: the factor by which these
    convolutions reduce the number of frames.
    """
    shape = {
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden_size,
        "subsampling_factor": subsampling,
        "subsampling_conv_channels": channels,
        "conv_kernel_size": 15,
        "num_mel_bins": 80,
        # No dropout: training perturbs every recording differently each time.
        **dict.fromkeys(("dropout", "activation_dropout", "attention_dropout", "layerdrop"), 0.0),
        "scale_input": False,
    }
    audio = ParakeetCTCConfig(vocab_size=len(alphabet) + 1, pad_token_id=len(alphabet), encoder_config=shape)
    model = CtcEncoder(CtcEncoderConfig(audio_config=audio, alphabet=alphabet))
    for module in model.modules():
        # With transformers' standard deviation of 0.02, the first convolutions output hardly any signal.
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            module.reset_parameters()
    return model


def pretrained(
    name: str, alphabet: str, *, window: str = "full", tuned_layers: int = 0, first_pass: str = "none"
) -> CtcEncoder:
    """The audio encoder of a checkpoint, with a CTC head over `alphabet`.

    name: a folder or a name on the hub. window, tuned_layers: of Whisper (`adapt.model.whisper`). first_pass: the
    language in which Whisper transcribes (`adapt.model.first_pass`); `none`: its decoder is left out. A `CtcEncoder`
    keeps its head as far as `relettered` does; an encoder of transformers gets a new head, without the decoder or
    head of its checkpoint. Raises `ModelError` for model types not in ENCODERS.
    """
    config = AutoConfig.from_pretrained(name)
    if config.model_type == CtcEncoderConfig.model_type:
        return relettered(CtcEncoder.from_pretrained(name, dtype=torch.float32), alphabet)
    kind = {"parakeet_ctc": "parakeet_encoder"}.get(config.model_type, config.model_type)
    if kind not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise ModelError(f"{name!r}: is a {config.model_type!r} model; give one of {known}")
    encoder = AutoModel.from_pretrained(name, dtype=torch.float32)
    if config.model_type == "whisper":
        encoder.config.window, encoder.config.tuned_layers = window, tuned_layers
        if first_pass != "none":
            tokenizer, generation = AutoTokenizer.from_pretrained(name), GenerationConfig.from_pretrained(name)
            encoder.config.first_pass = first_pass_settings(config, tokenizer, generation, first_pass)
        else:
            encoder = encoder.encoder
    elif config.model_type == "parakeet_ctc":
        encoder = encoder.encoder
    model = CtcEncoder(CtcEncoderConfig(audio_config=encoder.config, alphabet=alphabet))
    model.encoder.load_state_dict(encoder.state_dict())
    return model


@torch.no_grad()
def relettered(encoder: CtcEncoder, alphabet: str) -> CtcEncoder:
    """The encoder with a CTC head over `alphabet`; unchanged if its head already has all these characters.

    The new head keeps the weights of the blank and of the characters that both alphabets have.
    """
    old = encoder.config.alphabet
    if set(alphabet) <= set(old):
        return encoder
    model = CtcEncoder(CtcEncoderConfig(audio_config=encoder.config.audio_config, alphabet=alphabet))
    model.encoder.load_state_dict(encoder.encoder.state_dict())
    for row, old_row in [*((i, old.find(c)) for i, c in enumerate(alphabet)), (-1, len(old))]:
        if old_row >= 0:
            model.ctc_head.weight[row] = encoder.ctc_head.weight[old_row]
            model.ctc_head.bias[row] = encoder.ctc_head.bias[old_row]
    return model


def greedy_paths(encoder: CtcEncoder, frames: torch.Tensor, lengths: torch.Tensor) -> list[str]:
    """CTC path of each recording: the most probable symbol of each frame as text, `_` for the blank."""
    symbols = encoder.config.alphabet + BLANK
    best = encoder.ctc(frames).argmax(-1).tolist()
    return ["".join(symbols[s] for s in row[:n]) for row, n in zip(best, lengths.tolist(), strict=True)]


AutoConfig.register(CtcEncoderConfig.model_type, CtcEncoderConfig)
