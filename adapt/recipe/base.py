"""The recipe of `adapt base`, which builds a speech LLM from an audio encoder, a projector and a decoder.

Each section is a dataclass, which is also the settings object of the training that uses it.
"""

from __future__ import annotations

import dataclasses as dc
from dataclasses import field
from pathlib import Path

from adapt.recipe import choices
from adapt.recipe.domain import BeamSearch, Common, Score
from adapt.text.normalise import NORMALISERS


@dc.dataclass(frozen=True)
class SpeechData:
    """Paired audio, and text without audio. Paths are relative to the folder of the recipe."""

    train: Path = field(metadata={"help": "manifest of paired audio to train on", "example": "train.jsonl"})
    dev: Path = field(metadata={"help": "manifest of paired audio to evaluate on in training", "example": "dev.jsonl"})
    test: Path | None = field(default=None, metadata={"help": "manifest of paired audio to score at the end"})
    text: Path | None = field(
        default=None,
        metadata={"help": "text for the decoder besides the transcripts, UTF-8, one sentence a line"},
    )
    lexicon: Path | None = field(default=None, metadata={"help": "lexicon with names for prompts, for `align.names`"})
    normaliser: str = field(
        default="basic",
        metadata={"help": "text normaliser for all transcripts and text", "choices": tuple(NORMALISERS)},
    )
    max_seconds: float = field(
        default=30.0,
        metadata={"help": "longest recording to train on, in seconds; longer ones are skipped", "above": 0},
    )
    bad: float = field(
        default=0.01, metadata={"help": "share of the audio files that may be unreadable", "low": 0, "high": 1}
    )
    frames_gb: float = field(
        default=20.0,
        metadata={"help": "most gigabytes that the frames of a frozen encoder may take on disk", "above": 0},
    )
    temperature: float = field(
        default=1.0,
        metadata={
            "help": "temperature of sampling languages: 1 keeps their proportions, higher values even them out",
            "low": 1,
        },
    )


@dc.dataclass(frozen=True)
class Encoder:
    """The audio encoder, trained by CTC over characters. `start` replaces the sizes of a new one."""

    start: str | None = field(
        default=None,
        metadata={
            "help": "audio encoder to start from: Parakeet, wav2vec 2.0, HuBERT, WavLM, Whisper, an encoder of "
            "`adapt base`, or that of one of its speech LLMs, such as tiny; default: a new Conformer",
            "model": True,
        },
    )
    hidden_size: int = field(default=144, metadata={"help": "width of the Conformer", "low": 8})
    layers: int = field(default=6, metadata={"help": "blocks of the Conformer", "low": 1})
    heads: int = field(default=4, metadata={"help": "attention heads in each block", "low": 1})
    channels: int = field(
        default=32, metadata={"help": "channels of the subsampling convolutions before the blocks", "low": 1}
    )
    subsampling: int = field(
        default=4, metadata={"help": "filterbank frames (10 ms each) in one encoder frame, a power of two", "low": 2}
    )
    window: str = field(
        default="recording",
        metadata={
            "help": "audio that Whisper encodes: the recording, or full (padded to 30 s, as in its own training)",
            "choices": choices.WINDOWS,
        },
    )
    first_pass: str = field(
        default="none",
        metadata={
            "help": "language, such as en, in which Whisper's own decoder transcribes for the projector first-pass; "
            "none leaves that decoder out"
        },
    )
    frozen: str = field(
        default="none",
        metadata={
            "help": "frozen part: none, first (the layers before the blocks), or all but the CTC head; "
            "the frames of a frozen encoder are computed once",
            "choices": choices.ENCODER_FROZEN,
        },
    )
    tuned_layers: int = field(
        default=0,
        metadata={"help": "last layers of a frozen Whisper that the stage `align` trains, by LoRA", "low": 0},
    )
    steps: int = field(default=4000, metadata={"help": "optimiser steps; 0 takes `start` as it is", "low": 0})
    batch_seconds: float = field(
        default=400.0, metadata={"help": "audio in a batch, in seconds, padding included", "above": 0}
    )
    learning_rate: float = field(default=1e-3, metadata={"help": "peak learning rate", "above": 0})
    warmup_steps: int = field(default=400, metadata={"help": "steps in which the learning rate rises from 0", "low": 0})
    short_first: float = field(
        default=0.05,
        metadata={
            "help": "first share of the steps, in which batches go from short recordings to all of them",
            "low": 0,
            "high": 1,
        },
    )
    running_statistics: float = field(
        default=0.2,
        metadata={
            "help": "last share of the steps, in which batch normalisation uses its running statistics, as in "
            "inference",
            "low": 0,
            "high": 1,
        },
    )


@dc.dataclass(frozen=True)
class Llm:
    """The decoder: any causal LM, trained on text alone. `start` replaces the tokenizer and sizes of a new one."""

    start: str | None = field(
        default=None,
        metadata={
            "help": "causal LM to start from, or a speech LLM of `adapt base`, such as tiny, for its decoder and, "
            "if the sizes agree, its projector; default: a new decoder",
            "model": True,
        },
    )
    hidden_size: int = field(default=256, metadata={"help": "width of the decoder", "low": 8})
    layers: int = field(default=6, metadata={"help": "blocks of the decoder", "low": 1})
    heads: int = field(default=4, metadata={"help": "attention heads in each block", "low": 1})
    intermediate_size: int = field(default=512, metadata={"help": "width of the feed-forward layers", "low": 8})
    vocab_size: int = field(default=1000, metadata={"help": "vocabulary size of a new tokenizer", "low": 50})
    lm_steps: int = field(
        default=1500, metadata={"help": "optimiser steps as a language model; 0 leaves this out", "low": 0}
    )
    read_steps: int = field(
        default=4000,
        metadata={
            "help": "optimiser steps on sentences that the slot holds as simulated letters; 0 leaves this out",
            "low": 0,
        },
    )
    batch_size: int = field(default=64, metadata={"help": "sentences in a batch", "low": 1})
    lm_rate: float = field(default=1.5e-3, metadata={"help": "peak learning rate of lm_steps", "above": 0})
    read_rate: float = field(default=1e-3, metadata={"help": "peak learning rate of read_steps", "above": 0})


@dc.dataclass(frozen=True)
class Align:
    """Training of projector, decoder and encoder together on real audio."""

    prompt: str = field(
        default="<speech>", metadata={"help": "prompt template: the text around the slot, which is <speech>"}
    )
    stack: int = field(default=2, metadata={"help": "encoder frames in one audio embedding", "low": 1})
    projector: str = field(
        default="mlp",
        metadata={"help": "layers of the projector", "choices": choices.PROJECTORS},
    )
    projector_size: int = field(
        default=256, metadata={"help": "hidden width of the projector; linear has none", "low": 1}
    )
    decoder: str = field(
        default="lora",
        metadata={"help": "how the decoder is trained", "choices": choices.DECODER_TRAINING},
    )
    lora_layers: str = field(
        default="attention",
        metadata={"help": "linear layers of the decoder that LoRA trains", "choices": choices.LORA_LAYERS},
    )
    rank: int = field(default=16, metadata={"help": "rank of LoRA", "low": 1})
    alpha: int = field(default=32, metadata={"help": "scale of LoRA, applied as alpha / rank", "low": 1})
    units: str = field(
        default="none",
        metadata={
            "help": "units of the LLM for CTC over audio embeddings, a head that stays with the model: none, letters, "
            "pieces (up to 3 letters), tokens, or mixed (tokens for words that are heard often, else pieces)",
            "choices": choices.UNITS,
        },
    )
    slots: str = field(
        default="all",
        metadata={
            "help": "audio embeddings that the decoder gets: all, or one for each unit that CTC over `units` hears",
            "choices": ("all", "units"),
        },
    )
    ctc_steps: int = field(
        default=0,
        metadata={
            "help": "first optimiser steps, in which the projector learns the units by CTC, without the decoder",
            "low": 0,
        },
    )
    ctc_seconds: float = field(
        default=120.0, metadata={"help": "audio in a batch of ctc_steps, in seconds, padding included", "above": 0}
    )
    ctc_rate: float = field(default=2e-3, metadata={"help": "peak learning rate of ctc_steps", "above": 0})
    steps: int = field(default=2000, metadata={"help": "optimiser steps with the decoder", "low": 1})
    batch_seconds: float = field(
        default=120.0, metadata={"help": "audio in a batch, in seconds, padding included", "above": 0}
    )
    projector_rate: float = field(default=2e-3, metadata={"help": "peak learning rate of the projector", "above": 0})
    decoder_rate: float = field(default=3e-4, metadata={"help": "peak learning rate of the decoder", "above": 0})
    encoder_rate: float = field(default=4e-4, metadata={"help": "peak learning rate of the encoder", "above": 0})
    decoder_from: float = field(
        default=0.2, metadata={"help": "share of the steps after which the decoder is trained too", "low": 0, "high": 1}
    )
    encoder_rank: int = field(
        default=32, metadata={"help": "rank of LoRA on the tuned layers of the encoder", "low": 1}
    )
    encoder_from: float = field(
        default=1.0,
        metadata={"help": "share of the steps after which the encoder is trained too; 1 is never", "low": 0, "high": 1},
    )
    ctc_weight: float = field(
        default=0.3, metadata={"help": "weight of the encoder's CTC loss while the encoder is trained", "low": 0}
    )
    simulated: float = field(
        default=1.0,
        metadata={
            "help": "sentences in a batch whose slot is simulated by unit selection, for each recording in it",
            "low": 0,
        },
    )
    names: float = field(
        default=0.0,
        metadata={
            "help": "share of the sentences whose prompt lists names of `data.lexicon`, those of the sentence among "
            "others that sound alike",
            "low": 0,
            "high": 1,
        },
    )
    unit_recordings: int = field(
        default=2000, metadata={"help": "recordings in the inventory of unit selection", "low": 1}
    )
    explicit: str = field(
        default="none",
        metadata={
            "help": "additional loss between audio embeddings and token embeddings: none, letters (distance to the "
            "letters of the CTC posteriors), or ctc (CTC over `units`)",
            "choices": choices.EXPLICIT,
        },
    )


@dc.dataclass(frozen=True, kw_only=True)
class BaseRecipe(Common):
    """A speech LLM built from parts."""

    workers: int = field(
        default=0, metadata={"help": "processes that prepare batches; 0: the training process itself", "low": 0}
    )
    data: SpeechData
    encoder: Encoder = Encoder()
    llm: Llm = Llm()
    align: Align = Align()
    transcribe: BeamSearch = field(default_factory=BeamSearch)
    score: Score = field(default_factory=Score)
