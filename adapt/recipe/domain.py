"""What `recipe.yaml` of a domain holds: each section is a dataclass, one stage's keyword arguments."""

from __future__ import annotations

import dataclasses as dc
from dataclasses import field
from pathlib import Path

from adapt.text.normalise import NORMALISERS


@dc.dataclass(frozen=True)
class DomainData:
    """What is adapted to, and what is watched. Paths are relative to the folder of the recipe."""

    text: Path = field(metadata={"help": "domain text, UTF-8, one sentence a line", "example": "text.txt"})
    lexicon: Path | None = field(default=None, metadata={"help": "entities of the domain, a lexicon"})
    test: Path | None = field(default=None, metadata={"help": "manifest of the domain, for the score alone"})
    dev: Path | None = field(default=None, metadata={"help": "manifest of the domain, for `adapt tune`"})
    paired: Path | None = field(
        default=None, metadata={"help": "manifest of the domain to learn from, for `adapt project`"}
    )
    source_replay: Path | None = field(
        default=None, metadata={"help": "manifest of the source domain, replayed while the decoder is tuned"}
    )
    source_dev: Path | None = field(
        default=None, metadata={"help": "manifest of the source domain: the guard of training and of `adapt tune`"}
    )
    source_test: Path | None = field(
        default=None, metadata={"help": "manifest of the source domain, scored for forgetting"}
    )
    normaliser: str = field(
        default="basic",
        metadata={"help": "what all text goes through first", "choices": tuple(NORMALISERS)},
    )
    dev_lines: int = field(default=300, metadata={"help": "lines of text kept for development", "low": 1})
    entity_copies: int = field(
        default=1,
        metadata={
            "help": "copies of each line that names an entity, with others of their type from the lexicon",
            "low": 0,
        },
    )


@dc.dataclass(frozen=True)
class Prompt:
    """Stage 1: the soft prompt is learned, everything else frozen."""

    start: Path | None = field(default=None, metadata={"help": "a soft prompt to take as it is, in place of learning"})
    length: int = field(default=30, metadata={"help": "length of the soft prompt, in vectors", "low": 1})
    init: str = field(
        default="audio",
        metadata={
            "help": "start of the soft prompt: real audio, its statistics, embeddings of text, or noise",
            "choices": ("audio", "stats", "text", "random"),
        },
    )
    steps: int = field(default=200, metadata={"help": "optimiser steps", "low": 1})
    batch_size: int = field(default=32, metadata={"help": "sentences a step", "low": 1})
    learning_rate: float = field(default=1e-2, metadata={"help": "peak learning rate", "above": 0})
    eval_every: int = field(default=50, metadata={"help": "steps between two evaluations", "low": 1})


@dc.dataclass(frozen=True)
class Project:
    """From paired audio, before the two stages: the prompt around the slot, and what else is not frozen."""

    method: str = field(
        default="none",
        metadata={
            "help": "the learnable tokens of the template as free vectors, or its text behind a projector: three "
            "layers, or a residual that begins with the text as it is",
            "choices": ("none", "tokens", "mlp", "residual"),
        },
    )
    template: str = field(
        default="<p:Transcribe speech to text. ><speech>",
        metadata={"help": "<speech>, and <p:4> or <p:text> for what is learned; or a .yaml file that holds it"},
    )
    init: str = field(
        default="audio",
        metadata={"help": "start of tokens without a text", "choices": ("audio", "stats", "text", "random")},
    )
    size: int | None = field(
        default=None, metadata={"help": "hidden width of the projector; default: by its method", "low": 1}
    )
    encoder: str = field(
        default="frozen", metadata={"help": "the audio encoder of the base", "choices": ("frozen", "trained")}
    )
    projector: str = field(
        default="frozen", metadata={"help": "its projector, without which no encoder", "choices": ("frozen", "trained")}
    )
    llm: str = field(
        default="frozen",
        metadata={"help": "its decoder; lora: of rank and alpha as in `decoder`", "choices": ("frozen", "lora")},
    )
    steps: int = field(default=200, metadata={"help": "optimiser steps", "low": 1})
    batch_size: int = field(default=16, metadata={"help": "utterances a step", "low": 1})
    learning_rate: float = field(default=2e-3, metadata={"help": "peak learning rate of the prompt", "above": 0})
    weights_rate: float = field(
        default=3e-4, metadata={"help": "peak learning rate of encoder, projector and LoRA", "above": 0}
    )
    eval_every: int = field(default=50, metadata={"help": "steps between two evaluations", "low": 1})


@dc.dataclass(frozen=True)
class Decoder:
    """Stage 2: LoRA on the decoder, the soft prompt frozen."""

    pseudo_audio: str = field(
        default="auto",
        metadata={
            "help": "what stands in the slot: the soft prompt, a slot simulated for each sentence, the one "
            "before the other, now one and now the other, no prompt at all, or an empty slot; auto: simulated where "
            "the base has a CTC head to simulate, else the soft prompt",
            "choices": ("auto", "soft-prompt", "simulate", "soft-prompt+simulate", "mixed", "none", "empty"),
        },
    )
    noise: float = field(
        default=0.12, metadata={"help": "share of simulated letters disturbed at random", "low": 0, "high": 1}
    )
    steps: int = field(default=400, metadata={"help": "optimiser steps", "low": 1})
    batch_size: int = field(default=32, metadata={"help": "sentences a step", "low": 1})
    learning_rate: float = field(default=5e-4, metadata={"help": "peak learning rate", "above": 0})
    warmup_steps: int = field(default=20, metadata={"help": "steps in which the rate rises from 0", "low": 0})
    rank: int = field(default=16, metadata={"help": "rank of LoRA", "low": 1})
    alpha: int = field(default=32, metadata={"help": "scale of LoRA, applied as alpha / rank", "low": 1})
    dropout: float = field(
        default=0.0, metadata={"help": "share of LoRA's inputs dropped in training", "low": 0, "high": 0.9}
    )
    replay: float = field(
        default=0.3, metadata={"help": "share of a batch that is source_replay audio", "low": 0, "high": 1}
    )
    anchor: float = field(
        default=0.1, metadata={"help": "weight of the KL term to the base on the replayed audio", "low": 0}
    )
    activations: str = field(
        default="kept",
        metadata={
            "help": "kept for the backward pass, or recomputed (gradient checkpointing: less memory, more time)",
            "choices": ("kept", "recomputed"),
        },
    )
    eval_every: int = field(default=50, metadata={"help": "steps between two evaluations", "low": 1})
    patience: int = field(
        default=3,
        metadata={"help": "evaluations without a better development loss before training stops", "low": 1},
    )
    guard_tolerance: float = field(
        default=0.05,
        metadata={"help": "relative rise of the guard loss that refuses a checkpoint", "low": 0},
    )


@dc.dataclass(frozen=True)
class Lm:
    """The external language models: n-grams from the domain text, over the decoder's tokens and over words."""

    order: int = field(default=4, metadata={"help": "longest n-gram, in tokens", "low": 1, "high": 6})
    prune: int = field(
        default=0, metadata={"help": "n-grams of order 3 and up seen so often or less are left out", "low": 0}
    )
    tokens: Path | None = field(
        default=None, metadata={"help": "others' ARPA over the decoder's token ids, in place of an estimate"}
    )
    words: Path | None = field(default=None, metadata={"help": "others' ARPA over words, for the ctc system"})
    source: Path | None = field(
        default=None, metadata={"help": "text of the source domain; default: the transcripts of source_replay"}
    )
    source_order: int = field(default=2, metadata={"help": "longest n-gram of the source", "low": 1, "high": 6})


@dc.dataclass(frozen=True)
class Fusion:
    """What is fused into the beam search, by weight; 0 leaves it out. `adapt tune` finds weights."""

    lm: float = field(default=0.0, metadata={"help": "weight of the n-grams of the domain", "low": 0})
    source: float = field(
        default=0.0, metadata={"help": "weight of the n-grams of the source, taken off (LODR)", "low": 0}
    )
    ilm: float = field(default=0.0, metadata={"help": "weight of the internal LM, taken off", "low": 0})
    ilm_slot: str = field(
        default="empty",
        metadata={
            "help": "what stands in the slot for the internal LM",
            "choices": ("empty", "soft-prompt"),
        },
    )
    boost: float = field(default=0.0, metadata={"help": "weight of the bonus for phrases of the lexicon", "low": 0})
    reward: float = field(default=0.0, metadata={"help": "added for each token"})


@dc.dataclass(frozen=True)
class Transcribe:
    """Real audio takes the slot back; the soft prompt is dropped."""

    num_beams: int = field(default=4, metadata={"help": "beams of the search; 1 is greedy", "low": 1, "high": 1000})
    batch_size: int = field(default=16, metadata={"help": "utterances at a time", "low": 1})
    max_new_tokens: int = field(default=120, metadata={"help": "longest transcript, in tokens", "low": 1})
    ctc_weight: float = field(
        default=0.1,
        metadata={"help": "weight of the encoder's CTC beside the decoder in the search, where there is one", "low": 0},
    )


@dc.dataclass(frozen=True)
class Score:
    """WER and EER, in all, per type and with intervals."""

    resamples: int = field(default=1000, metadata={"help": "bootstrap resamples", "low": 1})


@dc.dataclass(frozen=True, kw_only=True)
class Common:
    """What every kind of recipe has. folder: where it lies; not a key of the file."""

    name: str = field(
        default="",
        metadata={
            "help": "name of the run; default: the name of the recipe's folder",
            "pattern": r"[^\s./\\][^/\\\n]*",
            "wanted": "text that can name a folder, without slashes or a dot in front",
            "example": "music",
        },
    )
    seed: int = field(default=1, metadata={"help": "seed of every stage", "low": 0, "high": 2**32 - 1})
    precision: str = field(
        default="auto",
        metadata={
            "help": "of training: fp32, mixed precision with bf16, or that where the hardware has bf16",
            "choices": ("auto", "fp32", "bf16"),
        },
    )
    folder: Path = field(default=Path(), compare=False)


@dc.dataclass(frozen=True, kw_only=True)
class Recipe(Common):
    """One domain, one base, one way to adapt it."""

    base: str = field(
        default="tiny",
        metadata={"help": "built-in base, model name, or a folder, which starts with ./ ../ ~ or /", "model": True},
    )
    dtype: str = field(
        default="auto",
        metadata={
            "help": "weights of the base; auto: fp32 for our own and on a CPU, else as they were saved",
            "choices": ("auto", "fp32", "bf16", "fp16"),
        },
    )
    quantise: str = field(
        default="none",
        metadata={"help": "linear layers of the base in fewer bits, on CUDA", "choices": ("none", "8-bit", "4-bit")},
    )
    language: str = field(
        default="en",
        metadata={
            "help": "what is spoken, ISO 639-1; for bases whose prompt says it",
            "pattern": "[a-z]{2,3}",
            "wanted": "two or three small letters, such as de",
        },
    )
    data: DomainData
    project: Project = Project()
    prompt: Prompt = Prompt()
    decoder: Decoder = Decoder()
    lm: Lm = Lm()
    fusion: Fusion = Fusion()
    transcribe: Transcribe = Transcribe()
    score: Score = Score()
