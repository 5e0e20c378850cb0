"""The recipe of a domain: each section is a dataclass, with the settings of one stage.

The `help` of a field is user documentation: `load.describe(Recipe)` prints it. `schema` explains the other metadata.
"""

from __future__ import annotations

import dataclasses as dc
from dataclasses import field
from pathlib import Path

from adapt.recipe import choices
from adapt.recipe.training import Decoder, Project, Prompt
from adapt.text.normalise import NORMALISERS
from adapt.text.sentences import COLUMN
from adapt.text.writable import WAYS


@dc.dataclass(frozen=True)
class DomainData:
    """Text and sets of the target domain, and sets of the source domain. Paths are relative to the recipe's folder."""

    text: Path | str = field(
        metadata={
            "help": "domain text, UTF-8, one sentence per line; or a .jsonl or .parquet file with a column of text, or "
            "such a data set of the hub, hf://datasets/OWNER/NAME[@REVISION][/FILES]; with a commit as REVISION, a "
            "second run needs no network",
            "hub": True,
            "example": "text.txt",
        }
    )
    text_column: str = field(
        default=COLUMN, metadata={"help": "column of a Parquet file or data set, or key of a JSONL file, with the text"}
    )
    text_lines: int = field(
        default=1_000_000,
        metadata={
            "help": "most lines of the text that are used, a random sample of a longer one; a LoRA learns from "
            "thousands, and a million take 1.5 GB of memory in a run, an n-gram LM of them 3.3 GB",
            "low": 2,
        },
    )
    lexicon: Path | None = field(default=None, metadata={"help": "lexicon with the entities of the domain"})
    test: Path | None = field(
        default=None,
        metadata={"help": "manifest of the target domain that is scored; nothing is trained or chosen on it"},
    )
    dev: Path | None = field(
        default=None, metadata={"help": "manifest of the target domain on which `adapt tune` chooses weights"}
    )
    paired: Path | None = field(
        default=None, metadata={"help": "manifest of the target domain, paired audio that `adapt project` trains on"}
    )
    source_replay: Path | None = field(
        default=None,
        metadata={
            "help": "manifest of the source domain, paired audio that is replayed while the decoder is tuned and that "
            "slots are simulated or generated from"
        },
    )
    source_dev: Path | None = field(
        default=None,
        metadata={"help": "manifest of the source domain, the guard set of training and of `adapt tune`"},
    )
    source_test: Path | None = field(
        default=None, metadata={"help": "manifest of the source domain that is scored to measure forgetting"}
    )
    normaliser: str = field(
        default="basic",
        metadata={
            "help": "text normaliser for domain text, transcripts, hypotheses and lexicon",
            "choices": tuple(NORMALISERS),
        },
    )
    unwritable: str = field(
        default="leave-out",
        metadata={
            "help": "what becomes of text and transcripts of training with characters that the base cannot write: left "
            "out (leave-out), or first written without accents (fold)",
            "choices": WAYS,
        },
    )
    dev_lines: int = field(
        default=300, metadata={"help": "lines of the domain text held out for the development loss", "low": 1}
    )
    entity_copies: int = field(
        default=1,
        metadata={
            "help": "copies of each line that contains an entity, with other entities of the same type from the "
            "lexicon in its place",
            "low": 0,
        },
    )


@dc.dataclass(frozen=True)
class Lm:
    """N-gram language models of the domain text, over the decoder's tokens and over words, for shallow fusion."""

    order: int = field(
        default=4, metadata={"help": "longest n-gram of the domain LMs, in tokens or words", "low": 1, "high": 6}
    )
    prune: int = field(
        default=0,
        metadata={"help": "n-grams of order 3 and above that occur this often or less are left out", "low": 0},
    )
    tokens: Path | None = field(
        default=None,
        metadata={"help": "ARPA file over the decoder's token ids to use instead of an estimate from the domain text"},
    )
    words: Path | None = field(
        default=None,
        metadata={"help": "ARPA file over words to use instead of an estimate, for the system `ctc`"},
    )
    source: Path | None = field(
        default=None,
        metadata={"help": "text of the source domain for the source LM; null: the transcripts of `data.source_replay`"},
    )
    source_order: int = field(
        default=2, metadata={"help": "longest n-gram of the source LM, in tokens", "low": 1, "high": 6}
    )


@dc.dataclass(frozen=True)
class FusionWeights:
    """Weights of what beam search adds to the decoder's scores; 0 leaves a part out. `adapt tune` finds weights."""

    lm: float = field(default=0.0, metadata={"help": "weight of the domain n-gram LM (shallow fusion)", "low": 0})
    source: float = field(
        default=0.0, metadata={"help": "weight of the source n-gram LM, which is subtracted (LODR)", "low": 0}
    )
    ilm: float = field(default=0.0, metadata={"help": "weight of the internal LM, which is subtracted", "low": 0})
    ilm_slot: str = field(
        default="empty",
        metadata={
            "help": "slot from which the decoder estimates its internal LM: empty, or the soft prompt",
            "choices": ("empty", "soft-prompt"),
        },
    )
    boost: float = field(default=0.0, metadata={"help": "weight of lexicon boosting", "low": 0})
    reward: float = field(
        default=0.0, metadata={"help": "added to the log probability of a hypothesis for each of its tokens"}
    )


@dc.dataclass(frozen=True)
class BeamSearch:
    """Transcription of real audio, with beam search."""

    num_beams: int = field(
        default=4, metadata={"help": "beams of the beam search; 1 is greedy search", "low": 1, "high": 1000}
    )
    batch_size: int = field(default=16, metadata={"help": "utterances in a batch", "low": 1})
    max_new_tokens: int = field(default=120, metadata={"help": "longest transcript, in tokens", "low": 1})
    ctc_weight: float = field(
        default=0.1,
        metadata={
            "help": "weight of the encoder's CTC scores in the decoder's beam search, for bases with a CTC head",
            "low": 0,
        },
    )


@dc.dataclass(frozen=True)
class Transcribe(BeamSearch):
    """Transcription of real audio, with beam search; the soft prompt is not used."""

    names: str = field(
        default="boost",
        metadata={
            "help": "use of the lexicon and of the `phrases` of utterances: boosted in the search with the weight "
            "`fusion.boost` (boost), in the prompt those that sound like a first hypothesis (prompt), both, or none; "
            "without a lexicon, prompt and both use terms that are found in the text (`adapt terms`)",
            "choices": choices.NAMES,
        },
    )
    names_in_prompt: int = field(default=10, metadata={"help": "most names in the prompt of an utterance", "low": 1})
    sentences: int = field(
        default=0,
        metadata={
            "help": "sentences of the domain text, those that sound most like its first transcript, that an encoder "
            "which transcribes, as that of `small`, reads before a recording; no other base reads any; 0: none",
            "low": 0,
        },
    )

    def search(self) -> dict[str, int | float]:
        """The settings without those of names and sentences."""
        return {f.name: getattr(self, f.name) for f in dc.fields(BeamSearch)}


@dc.dataclass(frozen=True)
class Score:
    """WER and EER with confidence intervals."""

    resamples: int = field(default=1000, metadata={"help": "bootstrap resamples of the utterances", "low": 1})


@dc.dataclass(frozen=True, kw_only=True)
class Common:
    """The keys that every kind of recipe has. folder: the folder of the recipe; not a key of the file."""

    name: str = field(
        default="",
        metadata={
            "help": "name of the run; default: the name of the recipe's folder",
            "pattern": r"[^\s./\\][^/\\\n]*",
            "pattern_help": "text that can name a folder, without slashes or a dot in front",
            "example": "music",
        },
    )
    seed: int = field(default=1, metadata={"help": "random seed of every stage", "low": 0, "high": 2**32 - 1})
    precision: str = field(
        default="auto",
        metadata={
            "help": "precision of training: fp32, or mixed precision with bf16; auto: bf16 if the hardware has it",
            "choices": choices.PRECISIONS,
        },
    )
    folder: Path = field(default=Path(), compare=False)


@dc.dataclass(frozen=True, kw_only=True)
class Recipe(Common):
    """One domain, one base, and one way to adapt it."""

    base: str = field(
        default="tiny",
        metadata={
            "help": "base speech LLM: a built-in one, owner/name on the hub, or a folder, written with ./ ../ ~ or / "
            "in front",
            "model": True,
        },
    )
    parts: str | None = field(
        default=None,
        metadata={
            "help": "folder with the parts of a built-in base that is made of pretrained parts; default: that of the "
            "variable ADAPT_PARTS, else the parts come from the hub",
            "folder": True,
        },
    )
    dtype: str = field(
        default="auto",
        metadata={
            "help": "data type of the weights; auto: fp32 on a CPU, but bf16 for a model of 100 million parameters in "
            "half precision if the CPU computes in it; on a GPU fp32 for models of `adapt base`, and others as saved",
            "choices": choices.DTYPES,
        },
    )
    quantise: str = field(
        default="none",
        metadata={
            "help": "quantisation of the base's linear layers, on CUDA only",
            "choices": tuple(choices.QUANTISE_BITS),
        },
    )
    language: str = field(
        default="en",
        metadata={
            "help": "spoken language, ISO 639-1, for bases whose prompt names it",
            "pattern": "[a-z]{2,3}",
            "pattern_help": "two or three lower-case letters, such as de",
        },
    )
    data: DomainData
    project: Project = field(default_factory=Project)
    prompt: Prompt = field(default_factory=Prompt)
    decoder: Decoder = field(default_factory=Decoder)
    lm: Lm = Lm()
    fusion: FusionWeights = FusionWeights()
    transcribe: Transcribe = Transcribe()
    score: Score = Score()
