"""Sizes of the embedded base model: 8.2 million parameters, 15.6 MiB in half precision."""

from __future__ import annotations

from transformers import LlamaConfig, ParakeetCTCConfig

from adapt.model.composed import ComposedConfig

ALPHABET = "abcdefghijklmnopqrstuvwxyz' "

# 25 frames a second: characters come at up to 15 a second, so 12.5 would be too few for CTC.
ENCODER = ParakeetCTCConfig(
    vocab_size=len(ALPHABET) + 1,
    pad_token_id=len(ALPHABET),
    encoder_config={
        "hidden_size": 160,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "intermediate_size": 640,
        "subsampling_factor": 4,
        "subsampling_conv_channels": 32,
        "conv_kernel_size": 15,
        "num_mel_bins": 80,
        # Every utterance is perturbed anew each time it is seen: dropout would only cost time.
        "dropout": 0.0,
        "activation_dropout": 0.0,
        "attention_dropout": 0.0,
        "layerdrop": 0.0,
        "scale_input": False,
    },
)


def composed_config() -> ComposedConfig:
    """The encoder, a slot vector for each of its frames (40 ms), and a Llama-shaped decoder."""
    decoder = LlamaConfig(
        vocab_size=1000,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    return ComposedConfig(
        audio_config=ENCODER,
        text_config=decoder,
        stack=1,
        projector_size=256,
        alphabet=ALPHABET,
        prompt="<speech><text>",
        audio_token_id=4,
        max_seconds=5.0,
    )
