"""The group of all commands: their order, and their errors in plain lines."""

from __future__ import annotations

import os
import sys
import warnings

import click

from adapt.errors import AdaptError, is_disk_full
from adapt.ranks import launched

# With this, torch asks the kernel for huge pages, with which a CPU trains faster. torch reads it at its import.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


class _Group(click.Group):
    """Lists commands in the order in which they were added, and prints the errors of users without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except AdaptError as error:
            click.echo(str(error), err=True)
            sys.exit(1)
        except Exception as error:
            if is_disk_full(error):
                way_out = "make room, and run the same command again, which continues from the last whole checkpoint"
                click.echo(f"no space is left on the disk; {way_out}", err=True)
                sys.exit(1)
            if not isinstance(error, OSError) or error.filename is None:
                raise
            click.echo(f"{error.filename}: {error.strerror}; check the path and its permissions", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo("\nstopped; run the same command to continue", err=True)
            sys.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="adapt-asr")
def main() -> None:
    """Adapt a speech LLM to a new domain with text and entity lists.

    A recipe is a folder with a recipe.yaml, which names the domain text, an entity list and test recordings.

    \b
    adapt check recipes/music      check the data before a run
    adapt run recipes/music        every stage, then the score table and report.html
    adapt transcribe call.wav --adapter runs/music/adapter
    """
    if not launched().is_first:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (to the end of the process)
    if not sys.warnoptions:  # warnings of libraries to their developers; -W shows them
        warnings.simplefilter("ignore")
