"""The sections of a recipe that train: prompt projection, and the two stages of the adaptation."""

from __future__ import annotations

import dataclasses as dc
from dataclasses import field
from pathlib import Path

from adapt.recipe import choices


@dc.dataclass(frozen=True)
class Prompt:
    """Stage 1: learn the soft prompt from text, with everything else frozen."""

    start: Path | None = field(
        default=None, metadata={"help": "file of a soft prompt to use as it is; stage 1 then trains nothing"}
    )
    length: int | str = field(
        default=30,
        metadata={
            "help": "length of the soft prompt, in vectors; auto: one of each length "
            f"{', '.join(map(str, choices.PROMPT_LENGTHS))} is learned, and that with the lowest development loss kept",
            "low": 1,
            "auto": True,
        },
    )
    init: str = field(
        default="audio",
        metadata={
            "help": "initial soft prompt: audio embeddings of a real recording (audio), noise with their mean and "
            "deviation (stats), embeddings of random tokens (text), or noise with the deviation of token embeddings "
            "(random)",
            "choices": choices.PROMPT_INITS,
        },
    )
    steps: int = field(default=200, metadata={"help": "optimiser steps", "low": 1})
    batch_size: int = field(default=32, metadata={"help": "sentences in a batch", "low": 1})
    learning_rate: float = field(default=1e-2, metadata={"help": "peak learning rate", "above": 0})
    eval_every: int = field(
        default=50, metadata={"help": "optimiser steps between two evaluations of the development loss", "low": 1}
    )


@dc.dataclass(frozen=True)
class Project:
    """Before the two stages, from paired audio: learn the prompt around the slot, and train parts of the base."""

    method: str = field(
        default="none",
        metadata={
            "help": "how the prompt is learned: not at all (none), its learnable tokens as free vectors (tokens), or a "
            "prompt projector over its text: three layers (mlp), or a residual that starts as the identity (residual)",
            "choices": choices.PROJECT_METHODS,
        },
    )
    template: str = field(
        default="<p:Transcribe speech to text. ><speech>",
        metadata={
            "help": "prompt template: <speech> is the slot, <p:4> stands for 4 learnable tokens and <p:text> for those "
            "of a text; or the name of a .yaml file that holds a template"
        },
    )
    init: str = field(
        default="audio",
        metadata={
            "help": "initial learnable tokens without a text, as in `prompt.init`",
            "choices": choices.PROMPT_INITS,
        },
    )
    size: int | None = field(
        default=None,
        metadata={
            "help": "hidden width of the prompt projector; null: the width of the embeddings for mlp, a quarter of it "
            "for residual",
            "low": 1,
        },
    )
    encoder: str = field(
        default="frozen",
        metadata={
            "help": "audio encoder of the base; trained only together with the projector",
            "choices": ("frozen", "trained"),
        },
    )
    projector: str = field(
        default="frozen", metadata={"help": "projector of the base", "choices": ("frozen", "trained")}
    )
    llm: str = field(
        default="frozen",
        metadata={
            "help": "decoder of the base; lora: trained by LoRA with `decoder.rank` and `decoder.alpha`",
            "choices": ("frozen", "lora"),
        },
    )
    steps: int = field(default=200, metadata={"help": "optimiser steps", "low": 1})
    batch_size: int = field(default=16, metadata={"help": "utterances in a batch", "low": 1})
    learning_rate: float = field(default=2e-3, metadata={"help": "peak learning rate of the prompt", "above": 0})
    weights_rate: float = field(
        default=3e-4, metadata={"help": "peak learning rate of encoder, projector and LoRA", "above": 0}
    )
    eval_every: int = field(
        default=50, metadata={"help": "optimiser steps between two evaluations of the development loss", "low": 1}
    )


@dc.dataclass(frozen=True)
class Decoder:
    """Stage 2: tune the decoder by LoRA on text, with the soft prompt frozen."""

    pseudo_audio: str = field(
        default="auto",
        metadata={
            "help": "pseudo audio embeddings: the soft prompt (soft-prompt), a slot simulated for each sentence "
            "(simulate), the soft prompt before the simulated slot (soft-prompt+simulate), one of the two at random "
            "(mixed), the tokens of the sentence with noise in its letters (denoise), its tokens repeated to the "
            "length of audio and partly masked (upsample-mask), audio embeddings by a network trained on "
            "`data.source_replay` (generate), audio of the sentence by the command `decoder.speak` (speech), an empty "
            "slot (empty), or no prompt at all (none); auto: simulate if the base has a CTC head or transcribes, else "
            "soft-prompt",
            "choices": choices.PSEUDO_AUDIO,
        },
    )
    noise: float = field(
        default=0.12,
        metadata={
            "help": "mean share of the letters that are changed at random, by simulate and denoise, and of the tokens "
            "that are masked, by upsample-mask",
            "low": 0,
            "high": 1,
        },
    )
    misheard: float = field(
        default=0.2,
        metadata={
            "help": "mean share of the words of a simulated transcript that are misheard, for a base whose encoder "
            "transcribes",
            "low": 0,
            "high": 1,
        },
    )
    speak: str | None = field(
        default=None,
        metadata={
            "help": "command of a speech synthesiser, for `speech`: it reads a sentence from standard input and writes "
            "a wav file to {out}, as `piper -m voice.onnx -f {out}`",
        },
    )
    spoken: int = field(
        default=1000, metadata={"help": "sentences of the text that are spoken, for `speech`", "low": 1}
    )
    names: float = field(
        default=0.0,
        metadata={
            "help": "share of the sentences whose prompt lists names of the lexicon, those of the sentence among "
            "others that sound alike, so that the decoder learns to use `transcribe.names: prompt`",
            "low": 0,
            "high": 1,
        },
    )
    steps: int = field(default=400, metadata={"help": "optimiser steps", "low": 1})
    batch_size: int = field(default=32, metadata={"help": "sentences in a batch", "low": 1})
    learning_rate: float = field(default=5e-4, metadata={"help": "peak learning rate", "above": 0})
    warmup_steps: int = field(
        default=20, metadata={"help": "optimiser steps in which the learning rate rises from 0", "low": 0}
    )
    rank: int = field(default=16, metadata={"help": "rank of LoRA", "low": 1})
    alpha: int = field(default=32, metadata={"help": "scale of LoRA, applied as alpha / rank", "low": 1})
    dropout: float = field(
        default=0.0, metadata={"help": "share of LoRA's inputs that are dropped in training", "low": 0, "high": 0.9}
    )
    replay: float = field(
        default=0.3,
        metadata={"help": "share of each batch that is paired audio from `data.source_replay`", "low": 0, "high": 1},
    )
    anchor: float = field(
        default=0.1,
        metadata={"help": "weight of the KL divergence from the base on the replayed audio", "low": 0},
    )
    activations: str = field(
        default="kept",
        metadata={
            "help": "activations for the backward pass: kept, or recomputed (gradient checkpointing, which takes less "
            "memory and more time)",
            "choices": ("kept", "recomputed"),
        },
    )
    eval_every: int = field(
        default=50, metadata={"help": "optimiser steps between two evaluations of the development loss", "low": 1}
    )
    patience: int = field(
        default=3,
        metadata={"help": "evaluations without a lower development loss after which training stops", "low": 1},
    )
    guard_tolerance: float = field(
        default=0.05,
        metadata={
            "help": "relative rise of the loss on the guard set above which a checkpoint is rejected; 0.05 is 5 %",
            "low": 0,
        },
    )
