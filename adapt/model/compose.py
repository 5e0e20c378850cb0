"""Compose a speech LLM of a trained audio encoder, a new projector and a causal LM."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adapt.model.composed import ComposedConfig, ComposedForSpeechRecognition
from adapt.model.encoders import CtcEncoder
from adapt.text.template import SLOT


def compose(
    encoder: CtcEncoder, llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **settings
) -> ComposedForSpeechRecognition:
    """A model with the weights of `encoder` and `llm`, and a projector with random weights.

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
        **settings,
    )
    model = ComposedForSpeechRecognition(config)
    model.encoder.load_state_dict(encoder.state_dict())
    model.language_model.load_state_dict(llm.state_dict())
    return model
