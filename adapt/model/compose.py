"""Compose a speech LLM of a trained audio encoder, a new projector and a causal LM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adapt.model.composed import ComposedConfig, ComposedForSpeechRecognition
from adapt.model.encoders import CtcEncoder
from adapt.text.template import SLOT


def compose(
    encoder: CtcEncoder,
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    units: Sequence[int] = (),
    letters: torch.Tensor | None = None,
    **settings,
) -> ComposedForSpeechRecognition:
    """A model with the weights of `encoder` and `llm`, and a projector with random weights.

    units: token ids for a CTC head over them. letters: of Whisper's tokens, for the projector `first-pass`.
    settings: other fields of `ComposedConfig`, such as `stack`, `projector`, `projector_size`, `prompt`, `max_seconds`
    and `whole_stacks`. In a tokenizer without a padding token, the end of sentence becomes the padding token; in place.
    """
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    config = ComposedConfig(
        audio_config=encoder.config.audio_config,
        alphabet=encoder.config.alphabet,
        text_config=llm.config,
        # If the tokenizer has no token for the slot, the id is one beyond its vocabulary.
        audio_token_id=tokenizer.get_vocab().get(SLOT, max(len(tokenizer), llm.config.vocab_size)),
        units=len(units),
        **settings,
    )
    for part in (config.audio_config, config.text_config):
        part._name_or_path = ""  # a folder of the machine that built it
    model = ComposedForSpeechRecognition(config)
    model.encoder.load_state_dict(encoder.state_dict())
    model.language_model.load_state_dict(llm.state_dict())
    if units:
        model.unit_ctc.units.copy_(torch.tensor(units))
    if config.projector in ("normalised", "first-pass"):
        model.projector.scale.data.fill_(llm.get_input_embeddings().weight.float().norm(dim=-1).mean())
    if letters is not None:
        model.projector.letters.copy_(letters)
        torch.nn.init.zeros_(model.projector.linear2.weight)
    return model
