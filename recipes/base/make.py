"""Make the embedded base model again, stage by stage; each stage goes on where it was stopped.

python recipes/base/make.py text --data DIR     # DIR holds the corpora named in text.py, and an4
python recipes/base/make.py speech --data DIR
python recipes/base/make.py encoder             # CTC training of the Conformer
python recipes/base/make.py decoder             # language model, then reading its slot from text alone
python recipes/base/make.py align               # projector and decoder on encoder output
python recipes/base/make.py test                # WER per set
python recipes/base/make.py pack                # half precision, into adapt/assets/tiny
"""

from __future__ import annotations

import os
from pathlib import Path

import click

HERE = Path(__file__).parent


def _log(line: str) -> None:
    click.echo(line, err=True)


work_option = click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=Path("runs/base"),
    show_default=True,
    help="Work folder.",
)
data_option = click.option(
    "--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True, help="Corpora."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Make the embedded base model."""


def _sentences(work: Path, name: str) -> list[str]:
    return (work / f"{name}.txt").read_text(encoding="utf-8").splitlines()


@main.command()
@work_option
@data_option
def text(work: Path, data: Path) -> None:
    """Filter and cap the corpora into train.txt and held_out.txt."""
    from text import general_text

    work.mkdir(parents=True, exist_ok=True)
    for name, sentences in zip(("train", "held_out"), general_text(data), strict=True):
        (work / f"{name}.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
        _log(
            f"text: {name}: {len(sentences):,} sentences, {sum(map(len, map(str.split, sentences))):,} words"
        )


@main.command()
@work_option
@data_option
@click.option("--count", default=50_000, show_default=True, help="Utterances to speak.")
@click.option("--processes", default=os.cpu_count(), show_default=True, help="Processes to speak with.")
def speech(work: Path, data: Path, count: int, processes: int) -> None:
    """Speak the sentences in many voices, and read the human recordings, as log-mel shards."""
    from speech import held_out_sets, human_sets, synthesise

    human_sets(data, work)
    held_out_sets(_sentences(work, "held_out"), work)
    # Short sentences carry as much about letters per second as long ones, and fit more into a batch.
    short = [s for s in _sentences(work, "train") if len(s) <= 60]
    synthesise(short, work, count, processes, _log)


if __name__ == "__main__":
    main()
