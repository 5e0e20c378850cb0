"""The recipe of a speech LLM that is built from parts: what `adapt base` reads."""

from __future__ import annotations

import dataclasses as dc
from dataclasses import field
from pathlib import Path

from adapt.recipe.domain import Common, Score, Transcribe
from adapt.text.normalise import NORMALISERS


@dc.dataclass(frozen=True)
class SpeechData:
    """Paired audio, and text beside it. Paths are relative to the folder of the recipe."""

    train: Path = field(metadata={"help": "manifest to train on", "example": "train.jsonl"})
    dev: Path = field(metadata={"help": "manifest to watch while training", "example": "dev.jsonl"})
    test: Path | None = field(default=None, metadata={"help": "manifest for the score alone"})
    text: Path | None = field(
        default=None,
        metadata={"help": "sentences for the decoder beside the transcripts, UTF-8, one a line"},
    )
    normaliser: str = field(
        default="basic",
        metadata={"help": "what all text goes through first", "choices": tuple(NORMALISERS)},
    )
    max_seconds: float = field(default=30.0, metadata={"help": "longest recording to train on, in seconds", "above": 0})
    bad: float = field(default=0.01, metadata={"help": "share of unreadable files to pass over", "low": 0, "high": 1})
    temperature: float = field(
        default=1.0,
        metadata={"help": "of sampling languages: 1 as they are, more evens them out", "low": 1},
    )


@dc.dataclass(frozen=True)
class Encoder:
    """CTC over characters. With `start`, the sizes are those of what it names."""

    start: str | None = field(
        default=None,
        metadata={
            "help": "audio encoder to go on from: Parakeet, wav2vec 2.0, HuBERT, WavLM, Whisper, one made here, "
            "or that of a speech LLM made here, such as tiny",
            "model": True,
        },
    )
    hidden_size: int = field(default=144, metadata={"help": "width of the Conformer", "low": 8})
    layers: int = field(default=6, metadata={"help": "blocks of the Conformer", "low": 1})
    heads: int = field(default=4, metadata={"help": "heads of its attention", "low": 1})
    channels: int = field(default=32, metadata={"help": "channels of the convolutions before it", "low": 1})
    subsampling: int = field(default=4, metadata={"help": "filterbank frames in one encoder frame", "low": 2})
    frozen: str = field(
        default="none",
        metadata={
            "help": "what stays as it is: nothing, the layers before the blocks, or all but the CTC head",
            "choices": ("none", "first", "all"),
        },
    )
    steps: int = field(default=4000, metadata={"help": "optimiser steps; 0: `start` as it is", "low": 0})
    batch_seconds: float = field(default=400.0, metadata={"help": "audio in a batch, in seconds", "above": 0})
    learning_rate: float = field(default=1e-3, metadata={"help": "peak learning rate", "above": 0})
    warmup_steps: int = field(default=400, metadata={"help": "steps in which the rate rises from 0", "low": 0})
    short: float = field(
        default=0.05, metadata={"help": "share of the steps that begins with short recordings", "low": 0, "high": 1}
    )
    running: float = field(
        default=0.2,
        metadata={
            "help": "share of the steps, the last ones, with batch normalisation as in inference",
            "low": 0,
            "high": 1,
        },
    )


@dc.dataclass(frozen=True)
class Llm:
    """The decoder: any causal LM. With `start`, the sizes are those of what it names, and its tokenizer is taken."""

    start: str | None = field(
        default=None,
        metadata={
            "help": "causal LM to begin with, or a speech LLM made here, such as tiny: its decoder, and its projector "
            "where it fits",
            "model": True,
        },
    )
    hidden_size: int = field(default=256, metadata={"help": "width", "low": 8})
    layers: int = field(default=6, metadata={"help": "blocks", "low": 1})
    heads: int = field(default=4, metadata={"help": "heads of attention", "low": 1})
    intermediate_size: int = field(default=512, metadata={"help": "width of the feed-forward layers", "low": 8})
    pieces: int = field(default=1000, metadata={"help": "sentencepiece units of its tokenizer", "low": 50})
    lm_steps: int = field(default=1500, metadata={"help": "steps as a language model; 0: none", "low": 0})
    read_steps: int = field(
        default=4000, metadata={"help": "steps of reading its slot, spelled, from text alone; 0: none", "low": 0}
    )
    batch_size: int = field(default=64, metadata={"help": "sentences a step", "low": 1})
    lm_rate: float = field(default=1.5e-3, metadata={"help": "peak learning rate as a language model", "above": 0})
    read_rate: float = field(default=1e-3, metadata={"help": "peak learning rate while it learns to read", "above": 0})


@dc.dataclass(frozen=True)
class Align:
    """Projector and decoder on real audio."""

    prompt: str = field(default="<speech>", metadata={"help": "template: what stands around the slot, <speech>"})
    stack: int = field(default=2, metadata={"help": "encoder frames in one audio embedding", "low": 1})
    projector: str = field(
        default="mlp",
        metadata={"help": "what maps them to the decoder's embeddings", "choices": ("linear", "mlp", "conv")},
    )
    projector_size: int = field(default=256, metadata={"help": "its hidden width; linear has none", "low": 1})
    decoder: str = field(
        default="lora",
        metadata={"help": "what of the decoder is trained", "choices": ("frozen", "lora", "full")},
    )
    rank: int = field(default=16, metadata={"help": "rank of LoRA, on the layers of attention", "low": 1})
    alpha: int = field(default=32, metadata={"help": "scale of LoRA, applied as alpha / rank", "low": 1})
    steps: int = field(default=2000, metadata={"help": "optimiser steps", "low": 1})
    batch_seconds: float = field(default=120.0, metadata={"help": "audio in a batch, in seconds", "above": 0})
    projector_rate: float = field(default=2e-3, metadata={"help": "peak learning rate of the projector", "above": 0})
    decoder_rate: float = field(default=3e-4, metadata={"help": "peak learning rate of the decoder", "above": 0})
    encoder_rate: float = field(default=4e-4, metadata={"help": "peak learning rate of the encoder", "above": 0})
    decoder_from: float = field(
        default=0.2, metadata={"help": "share of the steps after which the decoder joins", "low": 0, "high": 1}
    )
    encoder_from: float = field(
        default=1.0,
        metadata={"help": "share of the steps after which the encoder joins; 1: never", "low": 0, "high": 1},
    )
    letters: float = field(default=0.3, metadata={"help": "weight of the encoder's CTC loss, once it joins", "low": 0})
    played: float = field(
        default=1.0,
        metadata={"help": "texts in a batch, pieced together from encoder frames, for each recording", "low": 0},
    )
    recordings: int = field(default=2000, metadata={"help": "recordings that those frames come from", "low": 1})
    explicit: str = field(
        default="none",
        metadata={
            "help": "loss between audio embeddings and token embeddings: to the letters that CTC hears, cosine, or CTC",
            "choices": ("none", "letters", "cosine", "ctc"),
        },
    )
    explicit_weight: float = field(default=1.0, metadata={"help": "its weight", "low": 0})


@dc.dataclass(frozen=True, kw_only=True)
class BaseRecipe(Common):
    """A speech LLM from parts."""

    workers: int = field(default=0, metadata={"help": "processes that read audio ahead of training", "low": 0})
    data: SpeechData
    encoder: Encoder = Encoder()
    llm: Llm = Llm()
    align: Align = Align()
    transcribe: Transcribe = field(default_factory=Transcribe)
    score: Score = field(default_factory=Score)
