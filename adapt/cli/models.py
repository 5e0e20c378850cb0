"""Commands over models and runs: base, export, import, ls."""

from __future__ import annotations

import json
from pathlib import Path

import click

from adapt.cli.options import device_option, json_option, out_option, report, set_option


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[encoder|read|align|test] RECIPE")
@set_option
@out_option
@device_option
@json_option
def base(words: tuple[str, ...], overrides: tuple[str, ...], out: Path | None, device: str, as_json: bool) -> None:
    """Build a speech LLM from parts.

    The parts are an audio encoder with CTC, a projector and any causal LM; they are trained on paired audio.

    \b
    encoder   train CTC over characters: a Conformer from scratch, or from a pretrained
              encoder (Parakeet, wav2vec 2.0, HuBERT, WavLM, Whisper)
    read      train the decoder on text alone, as a language model and to read sentences
              that its slot spells; a small decoder needs this, a large one does not
              (llm.read_steps: 0)
    align     train the projector, then the decoder too, on real audio and on slots
              simulated from it; LoRA is merged at the end; with align.ctc_steps the
              projector first learns units of the LLM by CTC, without the decoder
    test      WER of the decoder and of CTC, by language and by voice; pictures of the
              cosines between audio embeddings and token embeddings

    With a stage, the stages before it run first if they are not done. Without one, all four run. The result, RUN/model,
    is a base for every other command (2307.11795). `adapt ls base-keys` prints every key of recipe.yaml
    with its default, unit and range.

    The frames of a frozen encoder (encoder.frozen: all) are computed once, and kept in RUN/frames in half precision, up
    to data.frames_gb. Delete the folder when the base is done.

    Audio may be wav, flac, ogg or mp3 of any rate. Bad files are reported and skipped, up to the share data.bad.
    data.temperature above 1 evens out the languages. An exploding loss stops the training. A warning reports an encoder
    that outputs only blanks, and a decoder that does not use its slot, with the usual causes.
    """
    from adapt.build.context import Build
    from adapt.build.run import STAGES, run_until
    from adapt.build.test import BaseScores
    from adapt.recipe.base import BaseRecipe
    from adapt.recipe.load import load_recipe
    from adapt.run import RunFolder

    *stage, recipe = words
    if len(stage) > 1 or not set(stage) <= set(STAGES):
        known = ", ".join(STAGES)
        raise click.UsageError(f"expected [STAGE] RECIPE, got {' '.join(words)!r}; a stage is one of {known}")
    loaded = load_recipe(BaseRecipe, recipe, overrides)
    last = stage[0] if stage else "test" if loaded.data.test else "align"
    with RunFolder(out or Path("runs") / loaded.name, seed=loaded.seed) as folder:
        build = Build(loaded, folder, device, report)
        result = run_until(build, last)
        if isinstance(result, BaseScores):
            click.echo(json.dumps(result.to_json(), indent=2, ensure_ascii=False) if as_json else result.table())
        if last in ("align", "test"):
            click.echo(f"Use it: adapt transcribe AUDIO --base {build.path('model')}", err=True)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--adapter-only", is_flag=True, help="Write the LoRA alone, for engines that take one.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder.  [default: RUN/export, or RUN/export-adapter]",
)
def export(run: Path, adapter_only: bool, out: Path | None) -> None:
    """Write the adapted model as a model without an adapter.

    The folder also gets its processor and a model card. The model has the config, tensor names and data type of the
    base. It therefore loads wherever the base loads, without this toolkit, unless the base is built in, composed by
    `adapt base`, or has a learned prompt.
    """
    from adapt.export import export as write

    folder = write(run, out or run / ("export-adapter" if adapter_only else "export"), adapter_only)
    click.echo(folder)
    if not adapter_only:
        click.echo(f"Use it: adapt transcribe AUDIO --base {folder}", err=True)


@click.command("import")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--encoder", help="The audio encoder that it was trained with: a folder, or owner/name on the hub.")
@click.option("--llm", help="The LLM that it was trained with: a folder, or owner/name on the hub.")
@click.option(
    "--prompt",
    default="<speech>USER: Transcribe speech to text. \\n ASSISTANT:",
    show_default=True,
    help="Template; \\n is a new line. The beginning-of-sentence token follows the slot unless the template has it.",
)
@click.option("--lora-alpha", default=32.0, show_default=True, help="Alpha of its LoRA, which is merged.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="Folder, or file of a soft prompt.")
def import_(checkpoint: Path, encoder: str | None, llm: str | None, prompt: str, lora_alpha: float, out: Path) -> None:
    """Convert a model of SLAM-LLM or PEFT.

    A model.pt of SLAM-LLM, with its --encoder and --llm, becomes a base. The folder of a PEFT prompt-tuning adapter
    becomes a soft prompt for the key `prompt.start` of a recipe.
    """
    from adapt.model import slam

    if checkpoint.is_dir():
        count = slam.soft_prompt_of(checkpoint, out)
        click.echo(f"{out}\n{count} vectors")
        return
    if not encoder or not llm:
        raise click.UsageError("a model.pt holds neither encoder nor LLM; give --encoder and --llm")
    slam.from_slam(checkpoint, encoder, llm, out, prompt, lora_alpha)
    click.echo(out)
    click.echo(f"Use it: adapt transcribe AUDIO --base {out}", err=True)


@click.command()
@click.argument("what", type=click.Choice(["models", "runs", "keys", "base-keys"]))
@click.argument("folder", default="runs", type=click.Path(path_type=Path))
@json_option
def ls(what: str, folder: Path, as_json: bool) -> None:
    """List model types, runs, or the keys of a recipe.

    \b
    models     the model types of transformers that can be a base, and why others cannot
    runs       the runs in FOLDER, with their base, stages and scores
    keys       every key of a recipe for `adapt run`, with its default, unit and range
    base-keys  every key of a recipe for `adapt base`
    """
    if what in ("keys", "base-keys"):
        _keys(what, as_json)
    elif what == "models":
        _models(as_json)
    else:
        _runs(folder, as_json)


def _keys(what: str, as_json: bool) -> None:
    """Print the keys of a kind of recipe."""
    from adapt.recipe.base import BaseRecipe
    from adapt.recipe.domain import Recipe
    from adapt.recipe.load import describe, keys

    kind = Recipe if what == "keys" else BaseRecipe
    if as_json:
        helps = {key: field.metadata["help"] for key, (field, _) in keys(kind).items()}
        click.echo(json.dumps(helps, indent=2))
    else:
        click.echo(describe(kind), nl=False)


def _models(as_json: bool) -> None:
    """Print the support table."""
    from adapt.model.support import table

    supports = table()
    if as_json:
        rows = [
            {"model_type": s.model_type, "class": s.cls, "supported": s.supported, "why": s.why, "tested": s.tested}
            | {"needs": s.needs}
            for s in supports
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    rows = []
    for s in supports:
        verdict = "yes" if s.tested else "yes, untested"
        verdict += f"; pip install {s.needs}" if s.needs else ""
        rows.append((s.model_type, s.cls, verdict if s.supported else f"no, {s.why}"))
    _print_table(("model type", "class", "supported"), rows)
    click.echo("yes: every command is tested with a tiny random model of this class; no real checkpoint was tried")


def _runs(folder: Path, as_json: bool) -> None:
    """Print the runs in a folder."""
    from adapt.pipeline import list_runs

    runs = list_runs(folder)
    if as_json:
        click.echo(json.dumps(runs, indent=2))
        return
    rows = [(r["run"], r["base"] or "", ", ".join(r["stages"]), " -> ".join(map(_scores, r["rows"]))) for r in runs]
    _print_table(("run", "base", "stages", "target: first and last system"), rows)


def _scores(row: dict) -> str:
    """WER and EER of a system, in percent."""
    eer = "" if row["eer"] is None else f" EER {100 * row['eer']:.1f}"
    return f"WER {100 * row['wer']:.1f}{eer}"


def _print_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
