"""Options that several commands share, and the run of a recipe with these options."""

from __future__ import annotations

import functools
import math
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adapt.ranks import launched
from adapt.recipe.choices import DTYPES
from adapt.text.normalise import NORMALISERS

if TYPE_CHECKING:
    from adapt.recipe.domain import Recipe
    from adapt.run import StageResult
    from adapt.stages.context import Run

recipe_argument = click.argument("recipe", metavar="RECIPE")
set_option = click.option(
    "-s",
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the recipe, e.g. decoder.steps=200.",
)
out_option = click.option(
    "-o", "--out", type=click.Path(path_type=Path, file_okay=False), help="Run folder.  [default: runs/NAME]"
)
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="DEVICE",
    help="auto, cpu, cuda, cuda:1 or mps. spread: the layers are divided among all cards. shard: among the processes "
    "of a launch, in adapt prompt and adapt decoder.",
)
dtype_option = click.option(
    "--dtype",
    default="auto",
    show_default=True,
    type=click.Choice(DTYPES),
    help="Precision of the weights. auto: fp32 on a CPU, but bf16 for a large model saved in half precision if the CPU "
    "computes in it; on a GPU fp32 for models of `adapt base`, and others as saved.",
)
language_option = click.option(
    "--language",
    default="en",
    show_default=True,
    metavar="CODE",
    help="Spoken language, for bases whose prompt names it.",
)
normaliser_option = click.option(
    "--normaliser",
    default="basic",
    show_default=True,
    type=click.Choice(list(NORMALISERS)),
    help="Applied to all text; by transcribe, to the lexicon.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def base_option(command):
    """Add --base NAME, which is -s base=NAME with a folder relative to the working directory."""

    @click.option("--base", metavar="NAME", help="Another base: built in, a folder, or owner/name on the hub.")
    @functools.wraps(command)
    def wrapped(*args, base: str | None, overrides: tuple[str, ...], **kwargs):
        base_override = [f"base={base_argument(base)}"] if base else []
        return command(*args, overrides=(*overrides, *base_override), **kwargs)

    return wrapped


def run_options(command):
    """Add RECIPE and the options of a run: --set, --base, --out and --device."""
    for decorator in (device_option, out_option, base_option, set_option, recipe_argument):
        command = decorator(command)
    return command


def base_argument(name: str) -> str:
    """The value of `-s base=` for a base that is named relative to the working directory."""
    folder = Path(name).expanduser()
    return str(folder.absolute()) if folder.is_dir() else name


def weight(ctx: click.Context, option: click.Option, value: float | None) -> float | None:
    """Callback of an option that is a weight. Raises BadParameter for a number below 0."""
    if value is None or 0 <= value < math.inf:
        return value
    raise click.BadParameter(f"{value} is not a weight; give a number of at least 0")


def finite(ctx: click.Context, option: click.Option, value: float) -> float:
    """Callback of an option that may be below 0. Raises BadParameter for an infinite number, or none at all."""
    if math.isfinite(value):
        return value
    raise click.BadParameter(f"{value} is no number to add to a score; give a finite one")


def report(result: StageResult, note: str) -> None:
    """Print a line on stderr for a finished stage; of several processes, the first does."""
    if not launched().is_first:
        return
    duration = "as before" if result.skipped else f"{result.seconds:.0f} s"
    click.echo(f"{result.name.split('-')[0]:<10} {note:<60} {duration:>9}", err=True)
    if not result.skipped and result.reason != "never run":
        click.echo(f"{'':<10} redone: {result.reason}", err=True)


def domain_recipe(recipe: str, overrides: Sequence[str]) -> Recipe:
    """The recipe of a domain; its `parts` count for the whole process. Raises RecipeError as `load_recipe` does."""
    from adapt.model.assemble import VARIABLE
    from adapt.recipe.domain import Recipe
    from adapt.recipe.load import load_recipe

    loaded = load_recipe(Recipe, recipe, overrides)
    if loaded.parts:
        os.environ[VARIABLE] = loaded.parts
    return loaded


def next_command(command: str, recipe: str, overrides: Sequence[str], out: Path | None = None) -> str:
    """The line that tells the command to go on with, for the same run."""
    options = [word for override in overrides for word in ("-s", override)] + (["-o", str(out)] if out else [])
    return f"Next: {shlex.join(['adapt', command, recipe, *options])}"


def run_name(recipe: Recipe, overrides: Sequence[str]) -> str:
    """The name of a recipe and, if an override chose another base, of that base: each base has its own run folder."""
    if not any(override.startswith("base=") for override in overrides):
        return recipe.name
    *above, last = Path(recipe.base).parts
    # All folders of `adapt base` and `adapt export` end in the same names.
    return f"{recipe.name}-{above[-1]}-{last}" if last in ("model", "export") and above else f"{recipe.name}-{last}"


def refuse_shard(device: str) -> None:
    """Raises UsageError for the device `shard`, for a command that does more than train on text."""
    if device == "shard":
        raise click.UsageError("--device shard: only for adapt prompt and adapt decoder; give --device spread")


@contextmanager
def opened_run(
    recipe: str, overrides: Sequence[str], out: Path | None, device: str = "auto", trains: bool = False
) -> Iterator[Run]:
    """Open the `Run` of a recipe, and close its folder at the end. out: None: `runs/NAME`.

    trains: whether the command trains on text and does no more, as the device `shard` demands. Raises UsageError as
    `refuse_shard` otherwise.
    """
    if not trains:
        refuse_shard(device)
    from adapt.run import RunFolder
    from adapt.stages.context import Run

    loaded = domain_recipe(recipe, overrides)
    with RunFolder(out or Path("runs") / run_name(loaded, overrides), seed=loaded.seed) as folder:
        yield Run(loaded, folder, device, report)
