"""The command `adapt transcribe`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from adapt.cli.options import device_option, dtype_option, finite, language_option, normaliser_option, weight
from adapt.decode.batches import DEFAULT_ADAPTER
from adapt.decode.job import CHANNELS, ENGINES, TranscriptionJob, conflict, run_job
from adapt.decode.parts import LexiconBoosting
from adapt.ranks import launched
from adapt.recipe.choices import NAMES, QUANTISE_BITS
from adapt.recipe.domain import Transcribe


def _named_adapters(ctx: click.Context, option: click.Option, values: Sequence[str]) -> dict[str, Path]:
    """Callback of --adapter: the folder of each adapter by name; a single one needs no name."""
    adapters: dict[str, Path] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals or "/" in name:
            name, path = DEFAULT_ADAPTER, value
            if len(values) > 1:
                problem = "one of several adapters has no name"
                raise click.UsageError(f"--adapter {value}: {problem}; write --adapter NAME={value}")
        elif not name or "." in name:
            raise click.UsageError(f"--adapter {value}: {name!r} is not a name; write letters and digits before the =")
        if name in adapters:
            raise click.UsageError(f"--adapter {value}: two adapters have one name; give each its own name")
        adapters[name] = Path(path)
    return adapters


def _channel(ctx: click.Context, option: click.Option, value: str) -> str:
    """Callback of --channel."""
    if value not in CHANNELS and not (value.isascii() and value.isdigit()):
        raise click.BadParameter(f"{value!r} is no channel; give {', '.join(CHANNELS)} or a number from 0")
    return value


@click.command()
@click.argument("audio", nargs=-1, required=True, metavar="AUDIO...")
@click.option(
    "--channel",
    default=TranscriptionJob.channel,
    show_default=True,
    callback=_channel,
    metavar="|".join([*CHANNELS, "N"]),
    help="mix: the mean of the channels. each: every channel, named after its number. N: one of them, from 0.",
)
@click.option(
    "--base", default=TranscriptionJob.base, show_default=True, help="Base model: a built-in name or a folder."
)
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    callback=_named_adapters,
    metavar="[NAME=]PATH",
    help="Adapter of the base, e.g. runs/music/adapter. With a name, it is for utterances of that domain.",
)
@click.option("--prompt", type=click.Path(path_type=Path), help="Learned prompt around the slot, from `adapt project`.")
@click.option(
    "--decoder",
    default=TranscriptionJob.decoder,
    show_default=True,
    type=click.Choice(["llm", "ctc", "first-pass"]),
    help="llm: the speech LLM. ctc: the encoder's CTC head alone; lines of --out then hold a confidence. first-pass: "
    "the transcript of the audio encoder alone, for a base like small, whose encoder is a whole recogniser.",
)
@click.option(
    "--ctc-weight",
    type=float,
    callback=weight,
    help=f"Weight of CTC in the beam search.  [default: {Transcribe.ctc_weight:g} if the base has a CTC head]",
)
@click.option(
    "--lm",
    type=click.Path(path_type=Path),
    help="N-gram LM for shallow fusion: an ARPA of the decoder's tokens, or of words with --decoder ctc.",
)
@click.option(
    "--lm-weight", default=TranscriptionJob.lm_weight, show_default=True, callback=weight, help="Weight of --lm."
)
@click.option("--lexicon", type=click.Path(path_type=Path), help="Lexicon of the names of the domain.")
@click.option(
    "--names",
    default=TranscriptionJob.names,
    show_default=True,
    type=click.Choice(NAMES),
    help="Use of --lexicon. boost: boosted in the search. prompt: those that sound like a first hypothesis are in the "
    "prompt. both, or none.",
)
@click.option(
    "--names-in-prompt",
    default=TranscriptionJob.names_in_prompt,
    show_default=True,
    type=click.IntRange(1),
    help="Most names in a prompt.",
)
@click.option(
    "--text",
    metavar="FILE",
    help="Domain text, for an encoder that transcribes, as that of small: before a recording in which it finds no "
    "name, it reads the sentences that sound most like its first transcript.",
)
@click.option(
    "--sentences",
    default=TranscriptionJob.sentences,
    show_default=True,
    type=click.IntRange(1),
    help="Sentences of --text that it reads.",
)
@click.option(
    "--boost",
    type=float,
    callback=weight,
    help="Weight of lexicon boosting.  "
    f"[default: {LexiconBoosting.start:g}; with --decoder ctc: {LexiconBoosting.hotword_weight:g}]",
)
@click.option(
    "--ilm",
    default=TranscriptionJob.ilm,
    show_default=True,
    callback=weight,
    help="Weight of the internal LM, which is subtracted.",
)
@click.option(
    "--reward",
    default=TranscriptionJob.reward,
    show_default=True,
    type=float,
    callback=finite,
    help="Added to the score for each token, or with --decoder ctc for each word, beside --lm or --lexicon; a number "
    "below 0 favours short transcripts.",
)
@click.option("--rescore", metavar="MODEL", help="Causal LM, a folder or a name, that rescores the n-best list.")
@click.option(
    "--rescore-weight",
    default=TranscriptionJob.rescore_weight,
    show_default=True,
    callback=weight,
    help="Weight of --rescore.",
)
@click.option(
    "--nbest",
    default=TranscriptionJob.nbest,
    show_default=True,
    type=click.IntRange(1),
    help="Hypotheses in a line of --out.",
)
@click.option(
    "--num-beams",
    default=TranscriptionJob.num_beams,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="Beams; 1 is greedy search.",
)
@click.option(
    "--max-new-tokens",
    default=TranscriptionJob.max_new_tokens,
    show_default=True,
    type=click.IntRange(1),
    help="Longest transcript of what the base takes at once, in tokens of its decoder.",
)
@click.option(
    "--batch-size",
    default=TranscriptionJob.batch_size,
    show_default=True,
    type=click.IntRange(1),
    help="Utterances in a batch.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for JSON lines; a killed run continues where it stopped.",
)
@normaliser_option
@dtype_option
@click.option(
    "--quantise",
    type=click.Choice([name for name, bits in QUANTISE_BITS.items() if bits]),
    help="Quantise the linear layers of the base; needs CUDA.",
)
@language_option
@device_option
@click.option(
    "--engine",
    default=TranscriptionJob.engine,
    show_default=True,
    type=click.Choice(ENGINES),
    help="local: this process. ray: actors of a Ray cluster, that of RAY_ADDRESS or else one on this machine.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Actors of Ray, which share GPUs and cores.  [default: the number of GPUs of the cluster, or 1]",
)
def transcribe(**options) -> None:
    """Transcribe audio files or manifests.

    AUDIO are wav, flac, ogg or mp3 files, or manifests in JSONL or Parquet. A recording that is longer than the base
    takes at once is cut at its quietest points, and the transcripts are joined. Without --out, the transcripts are
    printed, each after its file name or id. Lines of a manifest may name parts of a file (`offset` and `duration`, in
    seconds) and a `channel`, and need no `text`. If a line has `phrases`, they are names for that utterance, besides
    --lexicon. If it has a `domain`, the adapter of that name decodes it; with several adapters, utterances without a
    domain use the unadapted base.
    """
    job = TranscriptionJob(**options)
    if problem := conflict(job):
        raise click.UsageError(problem)
    transcripts = run_job(job)
    if transcripts.earlier and launched().is_first:
        counts = f"{transcripts.earlier} of {len(transcripts.texts)} transcripts were there already and are kept"
        click.echo(f"{job.out}: {counts}; delete the file to transcribe them again", err=True)
    if not job.out:
        for name, text in transcripts.texts.items():
            click.echo(f"{name}\t{text}")
