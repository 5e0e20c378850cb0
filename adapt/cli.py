"""The command `adapt`: one command a stage, each a few lines over one function."""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from adapt.decode.job import DEFAULT_ADAPTER, TranscriptionJob, conflict, run_job
from adapt.decode.parts import LexiconBoosting
from adapt.errors import AdaptError
from adapt.recipe.domain import Transcribe

# torch asks the kernel for huge pages, in which a CPU trains faster; it reads this when it is imported.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


class _Group(click.Group):
    """Commands in the order of the work, and errors of the user's in plain lines."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except AdaptError as error:
            click.echo(str(error), err=True)
            sys.exit(1)
        except OSError as error:
            if error.filename is None:
                raise
            click.echo(f"{error.filename}: {error.strerror}; check the path and its rights", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("stopped; the same command goes on from here", err=True)
            sys.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="adapt-asr")
def main() -> None:
    """Adapt a speech LLM to a new domain with text alone.

    A recipe is a folder with a recipe.yaml: the domain text, entity lists, settings.

    \b
    adapt check recipes/music      look before you spend
    adapt run recipes/music        every stage, then the table and report.html
    adapt transcribe call.wav --adapter runs/music/adapter
    """
    if not sys.warnoptions:  # what libraries tell their developers; -W shows it
        warnings.simplefilter("ignore")


recipe_argument = click.argument("recipe", metavar="RECIPE")
set_option = click.option(
    "-s",
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key, e.g. decoder.steps=200.",
)


def base_option(command):
    """--base NAME: short for -s base=NAME, a folder as seen from here."""

    @click.option("--base", metavar="NAME", help="Another base: built in, a folder, or owner/name on the hub.")
    @functools.wraps(command)
    def wrapped(*args, base: str | None, overrides: tuple[str, ...], **kwargs):
        given = [f"base={base_argument(base)}"] if base else []
        return command(*args, overrides=(*overrides, *given), **kwargs)

    return wrapped


def base_argument(name: str) -> str:
    """What `-s base=` takes for a base that is named from where one stands."""
    folder = Path(name).expanduser()
    return str(folder.absolute()) if folder.is_dir() else name


out_option = click.option(
    "-o", "--out", type=click.Path(path_type=Path, file_okay=False), help="Run folder  [default: runs/NAME]"
)
device_option = click.option(
    "--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ..."
)
dtype_option = click.option(
    "--dtype",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    help="Of the weights; auto: fp32 for our own and on a CPU, else as saved.",
)
language_option = click.option(
    "--language", default="en", show_default=True, metavar="CODE", help="Spoken, for bases whose prompt says it."
)
normaliser_option = click.option(
    "--normaliser",
    default="basic",
    show_default=True,
    type=click.Choice(["none", "basic", "english"]),
    help="Applied to all text; in transcribe, to the lexicon.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def _report(result, note: str) -> None:
    took = "as before" if result.skipped else f"{result.seconds:.0f} s"
    click.echo(f"{result.name.split('-')[0]:<10} {note:<60} {took:>9}", err=True)
    if not result.skipped and result.reason != "never run":
        click.echo(f"{'':<10} done again: {result.reason}", err=True)


@contextmanager
def _running(recipe: str, overrides: Sequence[str], out: Path | None, device: str = "auto"):
    from adapt.recipe.domain import Recipe
    from adapt.recipe.load import load_recipe
    from adapt.run import RunFolder
    from adapt.stages.context import Run

    loaded = load_recipe(Recipe, recipe, overrides)
    name = loaded.name
    if any(override.startswith("base=") for override in overrides):  # bases do not share a folder
        *above, last = Path(loaded.base).parts
        # What `adapt base` and `adapt export` write is called the same each time.
        name += f"-{above[-1]}-{last}" if last in ("model", "export") and above else f"-{last}"
    with RunFolder(out or Path("runs") / name, seed=loaded.seed) as folder:
        yield Run(loaded, folder, device, _report)


@main.command()
@click.argument("recipe", metavar="[RECIPE]", required=False)
@set_option
@click.option("--base", metavar="NAME", help="Load this base, find its slot, time it, and transcribe --audio.")
@click.option("--audio", type=click.Path(path_type=Path), help="With --base: a recording.")
@dtype_option
@language_option
@device_option
@json_option
def check(
    recipe: str | None,
    overrides: tuple[str, ...],
    base: str | None,
    audio: Path | None,
    dtype: str,
    language: str,
    device: str,
    as_json: bool,
) -> None:
    """Look before spending: a recipe's counts, duplicates, leaks and coverage, or a base of your own."""
    from adapt import check as checking
    from adapt.recipe.domain import Recipe
    from adapt.recipe.load import keys, load_recipe

    if not recipe and not base:
        raise click.UsageError("nothing to look at; give a RECIPE, or --base NAME, or both")
    findings = []
    if recipe:
        loaded = load_recipe(Recipe, recipe, (*overrides, *([f"base={base_argument(base)}"] if base else [])))
        findings = [checking.Finding("ok", "recipe.yaml", f"{len(keys(Recipe))} keys"), *checking.check(loaded)]
    if base:
        findings += checking.check_base(base, audio, device, dtype, language)
    if as_json:
        click.echo(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(f"{finding.verdict:<5} {finding.about:<12} {finding.text}")
        more = f" --base {base}" if base else ""
        click.echo(f"Next: adapt run {recipe or 'RECIPE'}{more}")
    if any(finding.verdict == "fail" for finding in findings):
        sys.exit(1)


@main.command()
@recipe_argument
@set_option
@base_option
@out_option
@device_option
@json_option
def run(recipe: str, overrides: tuple[str, ...], out: Path | None, device: str, as_json: bool) -> None:
    """Run every stage of a recipe, skipping what is done; print the score table."""
    from adapt import pipeline
    from adapt.stages import plan

    with _running(recipe, overrides, out, device) as it:
        if it.path(plan.TUNED).exists():
            told = f"of {it.path(plan.TUNED)}, in place of the recipe's; delete it to use those"
            click.echo(f"{'fusion':<10} weights {told}", err=True)
        table = pipeline.run_all(it)
        if as_json:
            click.echo(it.path("scores/metrics.json").read_text(encoding="utf-8") if table else "{}\n", nl=False)
            return
        if table:
            click.echo(f"{table}\n\nReport: {it.path('report.html')}")
        else:
            click.echo("Nothing is scored: the recipe names neither data.test nor data.source_test.")
        click.echo(f"Use it: adapt transcribe AUDIO --base {it.start} --adapter {it.path('adapter')}")


@main.command()
@recipe_argument
@set_option
@base_option
@out_option
@device_option
def project(recipe: str, overrides: tuple[str, ...], out: Path | None, device: str) -> None:
    """Learn from paired audio the prompt around the slot, and what of the base is not frozen."""
    from adapt import pipeline
    from adapt.stages import plan

    with _running(recipe, overrides, out, device) as it:
        if not plan.projects(it.recipe):
            told = "set project.method to tokens, mlp or residual, or project.projector to trained"
            raise click.UsageError(f"nothing to learn; {told}")
        pipeline.project(it)
        click.echo(it.path(plan.TRAINED if plan.trained(it.recipe) else plan.PROJECTED))


@main.command()
@recipe_argument
@click.option(
    "--prompts", "file", type=click.Path(path_type=Path), help="Templates, one a line  [default: ten that come along]"
)
@click.option("--method", "methods", multiple=True, help="plain, tokens-N, mlp, residual.  [default: all, N 8]")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Trainings of each.")
@set_option
@base_option
@out_option
@device_option
@json_option
def prompts(
    recipe: str,
    file: Path | None,
    methods: tuple[str, ...],
    seeds: int,
    overrides: tuple[str, ...],
    out: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """How much the wording of the prompt matters: WER and EER of many, as they are and learned; which one to use."""
    from adapt import prompts as comparing

    with _running(recipe, overrides, out, device) as it:
        found = comparing.prompts(it, file, methods or comparing.METHODS, seeds)
        click.echo(json.dumps(found.to_json(), indent=2) if as_json else found.table())


@main.command()
@recipe_argument
@set_option
@base_option
@out_option
@device_option
def prompt(recipe: str, overrides: tuple[str, ...], out: Path | None, device: str) -> None:
    """Stage 1: learn the soft prompt from text, everything else frozen."""
    from adapt import pipeline
    from adapt.stages import plan

    with _running(recipe, overrides, out, device) as it:
        pipeline.text(it)
        pipeline.prompt(it)
        click.echo(it.path(plan.SOFT_PROMPT))


@main.command()
@recipe_argument
@set_option
@base_option
@out_option
@device_option
def decoder(recipe: str, overrides: tuple[str, ...], out: Path | None, device: str) -> None:
    """Stage 2: tune the decoder on text, conditioned on pseudo audio."""
    from adapt import pipeline

    with _running(recipe, overrides, out, device) as it:
        pipeline.adapt(it)
        click.echo(it.path("adapter"))


@main.command()
@recipe_argument
@click.option(
    "--from",
    "given",
    type=click.Path(path_type=Path),
    help="An ARPA of others in place of an estimate: of token ids (decimals, or as NeMo writes them), or of words.",
)
@set_option
@base_option
@out_option
@json_option
def lm(recipe: str, given: Path | None, overrides: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Estimate n-grams from the domain text: over the decoder's tokens, over words, and of the source."""
    from adapt import pipeline
    from adapt.lm import arpa
    from adapt.stages.lm import perplexities

    if given:
        key = "words" if arpa.kind(given) == "words" else "tokens"
        overrides = (*overrides, f"lm.{key}={given.absolute()}")
    with _running(recipe, overrides, out) as it:
        pipeline.text(it)
        pipeline.lm(it)
        if given:
            told = f"the next run estimates its own again, unless the recipe has `lm: {{{key}: {given.absolute()}}}`"
            click.echo(f"{given}: taken this once; {told}", err=True)
        orders = perplexities(it)
        if as_json:
            click.echo(json.dumps(orders, indent=2))
            return
        click.echo("order    n-grams  dev perplexity  unseen tokens")
        for row in orders:
            click.echo(f"{row['order']:>5} {row['ngrams']:>10,} {row['perplexity']:>15.1f} {row['unseen']:>14,}")
        click.echo(it.path("lm/tokens.arpa"))


@main.command()
@recipe_argument
@set_option
@base_option
@out_option
@device_option
@json_option
def tune(recipe: str, overrides: tuple[str, ...], out: Path | None, device: str, as_json: bool) -> None:
    """Find the weights of LM, internal LM and lexicon on the development set; `adapt run` then uses them."""
    from adapt import pipeline
    from adapt.stages import plan
    from adapt.tune import stage as tuning
    from adapt.tune.table import table

    with _running(recipe, overrides, out, device) as it:
        tuning.check(it)
        pipeline.adapt(it)
        pipeline.lm(it)
        tuning.tune(it)
        if as_json:
            click.echo(it.path(plan.TUNED).read_text(encoding="utf-8"), nl=False)
            return
        click.echo(table(it))
        click.echo(f"Next: adapt run {recipe}")


@main.command()
@recipe_argument
@set_option
@click.option("--on", "name", default="target", show_default=True, metavar="SET", help="target, dev or source.")
@out_option
@device_option
@json_option
def robustness(
    recipe: str, overrides: tuple[str, ...], name: str, out: Path | None, device: str, as_json: bool
) -> None:
    """WER of base and adapted system in noise, between silences, by voice, by speaking rate and by length."""
    from adapt.robustness import robustness as measure

    with _running(recipe, overrides, out, device) as it:
        scores = measure(it, name)
        click.echo(json.dumps(scores.to_json(), indent=2, ensure_ascii=False) if as_json else scores.wers())


@main.command()
@click.argument("words", nargs=-1, required=True, metavar="[encoder|read|align|test] RECIPE")
@click.option(
    "--explicit",
    type=click.Choice(["none", "letters", "cosine", "ctc"]),
    help="Loss between audio embeddings and token embeddings in align; short for -s align.explicit=...",
)
@set_option
@out_option
@device_option
@json_option
def base(
    words: tuple[str, ...],
    explicit: str | None,
    overrides: tuple[str, ...],
    out: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Build a speech LLM from parts: audio encoder with CTC, projector, any causal LM.

    \b
    encoder   CTC over characters, from scratch or from a pretrained encoder
    read      the decoder learns from text alone to read its slot
    align     projector and decoder on real audio
    test      WER, of the decoder and of the encoder alone
    With a stage, what comes before it is run where it is not done; without, all four.
    """
    from adapt.build.context import Build
    from adapt.build.run import STAGES, run_until
    from adapt.build.test import Tested
    from adapt.recipe.base import BaseRecipe
    from adapt.recipe.load import load_recipe
    from adapt.run import RunFolder

    *stage, recipe = words
    if len(stage) > 1 or not set(stage) <= set(STAGES):
        raise click.UsageError(
            f"expected [STAGE] RECIPE, got {' '.join(words)!r}; a stage is one of {', '.join(STAGES)}"
        )
    given = [f"align.explicit={explicit}"] if explicit else []
    loaded = load_recipe(BaseRecipe, recipe, [*overrides, *given])
    last = stage[0] if stage else "test" if loaded.data.test else "align"
    with RunFolder(out or Path("runs") / loaded.name, seed=loaded.seed) as folder:
        build = Build(loaded, folder, device, _report)
        found = run_until(build, last)
        if isinstance(found, Tested):
            click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False) if as_json else found.table())
        if last in ("align", "test"):
            click.echo(f"Use it: adapt transcribe AUDIO --base {build.path('model')}", err=True)


def _weight(ctx: click.Context, option: click.Option, value: float | None) -> float | None:
    if value is None or 0 <= value < math.inf:
        return value
    raise click.BadParameter(f"{value} is not a weight; give a finite number that is not negative")


def _named_adapters(ctx: click.Context, option: click.Option, values: Sequence[str]) -> dict[str, Path]:
    """The folder of each adapter by name; a single one needs no name."""
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


@main.command()
@click.argument("audio", nargs=-1, required=True, metavar="AUDIO...")
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
    type=click.Choice(["llm", "ctc"]),
    help="llm: the speech LLM. ctc: the encoder's CTC head alone; lines of --out then hold a confidence.",
)
@click.option(
    "--ctc-weight",
    type=float,
    callback=_weight,
    help=f"Weight of CTC beside the decoder.  [default: {Transcribe.ctc_weight:g} if the base has a CTC head]",
)
@click.option(
    "--lm",
    type=click.Path(path_type=Path),
    help="N-gram LM for shallow fusion: an ARPA of the decoder's tokens, or of words with --decoder ctc.",
)
@click.option(
    "--lm-weight", default=TranscriptionJob.lm_weight, show_default=True, callback=_weight, help="Weight of --lm."
)
@click.option("--lexicon", type=click.Path(path_type=Path), help="Lexicon of the phrases to boost.")
@click.option(
    "--boost",
    type=float,
    callback=_weight,
    help="Weight of lexicon boosting.  "
    f"[default: {LexiconBoosting.start:g}; with --decoder ctc: {LexiconBoosting.hotword_weight:g}]",
)
@click.option(
    "--ilm",
    default=TranscriptionJob.ilm,
    show_default=True,
    callback=_weight,
    help="Weight of the internal LM, which is subtracted.",
)
@click.option("--rescore", metavar="MODEL", help="Causal LM, a folder or a name, that rescores the n-best list.")
@click.option(
    "--rescore-weight",
    default=TranscriptionJob.rescore_weight,
    show_default=True,
    callback=_weight,
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
    "--batch-size",
    default=TranscriptionJob.batch_size,
    show_default=True,
    type=click.IntRange(1),
    help="Utterances in a batch.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for JSON lines; a killed run goes on where it stopped.",
)
@normaliser_option
@dtype_option
@click.option(
    "--quantise", type=click.Choice(["8-bit", "4-bit"]), help="Quantise the linear layers of the base; needs CUDA."
)
@language_option
@device_option
def transcribe(**options) -> None:
    """Transcribe audio files, or the utterances of JSONL manifests.

    Without --out, the transcripts are printed, each after the name of its file or its id. If a line of a manifest holds
    `phrases`, they are boosted for that utterance, beside --lexicon. If it holds a `domain`, the adapter of that name
    decodes it; with several adapters, utterances without a domain use the unadapted base.
    """
    job = TranscriptionJob(**options)
    if problem := conflict(job):
        raise click.UsageError(problem)
    found = run_job(job)
    if found.kept:
        kept = f"{found.kept} of {len(found.texts)} transcripts were there already and stay as they are"
        click.echo(f"{job.out}: {kept}; delete the file to transcribe them again", err=True)
    if not job.out:
        for name, text in found.texts.items():
            click.echo(f"{name}\t{text}")


@main.command()
@click.argument("what", type=click.Choice(["models", "runs"]))
@click.argument("folder", default="runs", type=click.Path(path_type=Path))
@json_option
def ls(what: str, folder: Path, as_json: bool) -> None:
    """List the model types that can be a base, and those that cannot and why; or the runs in FOLDER."""
    if what == "models":
        from adapt.model.support import table

        rows = [
            {"model_type": r.model_type, "class": r.cls, "supported": r.supported, "why": r.why, "tested": r.tested}
            | {"needs": r.needs}
            for r in table()
        ]
        shown = [
            (r["model_type"], r["class"], "no, " + r["why"] if not r["supported"] else _supported(r)) for r in rows
        ]
        header = ("model type", "class", "supported")
    else:
        from adapt.run import runs

        rows = runs(folder)
        shown = [(r["run"], r["base"] or "", ", ".join(r["stages"]), _figures(r)) for r in rows]
        header = ("run", "base", "done", "target, first and last row")
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    widths = [max(len(row[i]) for row in (header, *shown)) for i in range(len(header))]
    for row in (header, *shown):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if what == "models":
        click.echo("yes: tried whole, on tiny models of random weights of the class; no real checkpoint has been")


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--adapter-only", is_flag=True, help="The LoRA alone, for engines that take one.")
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder  [default: RUN/export]")
def export(run: Path, adapter_only: bool, out: Path | None) -> None:
    """Write the adapted model as a plain one, with its processor and a model card; it then needs no adapter."""
    from adapt.export import export as write

    folder = write(run, out or run / "export", adapter_only)
    click.echo(folder)
    if not adapter_only:
        click.echo(f"Use it: adapt transcribe AUDIO --base {folder}", err=True)


@main.command("import")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--encoder", help="The audio encoder that it was trained with: a folder, or owner/name on the hub.")
@click.option("--llm", help="The LLM that it was trained with.")
@click.option(
    "--prompt",
    default="<speech>USER: Transcribe speech to text. \\n ASSISTANT:",
    show_default=True,
    help="Template; \\n is a new line. A beginning of sentence stands behind the slot, or where it is written.",
)
@click.option("--lora-alpha", default=32.0, show_default=True, help="Of its LoRA, which is merged.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder, or file of a soft prompt.")
def import_(checkpoint: Path, encoder: str | None, llm: str | None, prompt: str, lora_alpha: float, out: Path) -> None:
    """Take over what SLAM-LLM trained.

    A model.pt with its --encoder and --llm becomes a base of our own; the folder of a PEFT prompt-tuning adapter
    becomes a soft prompt, for `prompt.start` of a recipe.
    """
    from adapt.model import slam

    if checkpoint.is_dir():
        count = slam.soft_prompt_of(checkpoint, out)
        click.echo(f"{out}\n{count} vectors", err=False)
        return
    if not encoder or not llm:
        raise click.UsageError("a model.pt holds neither; give --encoder and --llm")
    slam.from_slam(checkpoint, encoder, llm, out, prompt, lora_alpha)
    click.echo(out)
    click.echo(f"Use it: adapt transcribe AUDIO --base {out}", err=True)


def _supported(row: dict) -> str:
    told = "yes" if row["tested"] else "yes, untried"
    return f"{told}; pip install {row['needs']}" if row["needs"] else told


def _figures(row: dict) -> str:
    told = [
        f"WER {100 * r['wer']:.1f}" + (f" EER {100 * r['eer']:.1f}" if r["eer"] is not None else "")
        for r in row["rows"]
    ]
    return " -> ".join(told)


@main.command()
@click.argument("refs", type=click.Path(path_type=Path))
@click.argument("hyps", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--lexicon", type=click.Path(path_type=Path), help="Entities to look for, a lexicon file.")
@normaliser_option
@click.option(
    "--convention",
    default="adapt",
    show_default=True,
    type=click.Choice(["adapt", "is21"]),
    help="How to align and count: ours, or that of is21_deep_bias.",
)
@click.option("--lenient", is_flag=True, help="Score what all files have in common.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write report.html, scores/ and hyps/ into.")
@click.option("--resamples", default=1000, show_default=True, type=click.IntRange(1), help="Bootstrap resamples.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Seed of the resamples.")
@json_option
def score(
    refs: Path,
    hyps: tuple[Path, ...],
    lexicon: Path | None,
    normaliser: str,
    convention: str,
    lenient: bool,
    out: Path | None,
    resamples: int,
    seed: int,
    as_json: bool,
) -> None:
    """Score hypotheses against references; the first HYPS is the baseline.

    Files may be JSONL manifests (ours, SLAM-LLM's, NeMo's), TSV of id and text, NIST trn, Kaldi text, or the biasing
    TSV of fbai-speech, each also as .gz.
    """
    from adapt.score.score import score as compute
    from adapt.text.lexicon import read_lexicon
    from adapt.text.transcripts import read_hypothesis_texts, read_references

    name, *names = (Path(path.name.removesuffix(".gz")).stem for path in (refs, *hyps))
    systems = names if len(set(names)) == len(names) else [str(path) for path in hyps]
    sets = {name: read_references(refs)}
    texts = {system: read_hypothesis_texts(path) for system, path in zip(systems, hyps, strict=True)}
    scores = compute(
        sets,
        {name: texts},
        read_lexicon(lexicon) if lexicon else None,
        normaliser=normaliser,
        resamples=resamples,
        seed=seed,
        convention=convention,
        lenient=lenient,
    )
    if out:
        from adapt.score.report import save_hypotheses, save_scores

        for system, lines in texts.items():
            save_hypotheses(out, name, system, lines)
        save_scores(out, scores, sets)
    click.echo(json.dumps(scores.to_json(), indent=2, ensure_ascii=False) if as_json else scores.table())
