"""Prepare the data of the base `small`: text, and speech in a neural voice and many others.

    python recipes/small/make.py text --data DIR     # DIR holds the corpora that recipes/base/text.py names, and an4
    python recipes/small/make.py speech --data DIR   # needs the output of `text`
    adapt base recipes/small
"""

from __future__ import annotations

import os
import random
import sys
from multiprocessing import Pool
from pathlib import Path

import click

HERE = Path(__file__).parent
DATA = HERE / "data"
sys.path.insert(0, str(HERE.parent / "base"))  # its text and its voices

from speech import PART, covering, held_out_set, human_sets, need_voices, write_manifest, write_part  # noqa: E402
from text import general_text  # noqa: E402
from voices import draw_voice, utterance  # noqa: E402
from wide_text import named_sentences, names, rare_lists, rare_words  # noqa: E402

from adapt.errors import AdaptError  # noqa: E402

NAMED = 6_000  # sentences with names in them

data_option = click.option(
    "--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True, help="Corpora folder."
)


def _log(line: str) -> None:
    click.echo(line, err=True)


def _sentences(name: str) -> list[str]:
    return (DATA / f"{name}.txt").read_text(encoding="utf-8").splitlines()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Prepare the data of the base `small`."""


@main.command()
@data_option
def text(data: Path) -> None:
    """Choose the sentences to speak, and those that no stage hears."""
    rng = random.Random(1)
    sentences, held_out, beyond = general_text(data)
    rare = rare_lists(rare_words([*sentences, *beyond]), rng)
    named = named_sentences(names(data), NAMED, rng)
    ordered = covering(sentences)  # many different words first
    spoken = ordered[: 2 * (len(rare) + len(named))]
    spoken = [*spoken, *rare, *named]
    rng.shuffle(spoken)
    DATA.mkdir(exist_ok=True)
    for name, lines in (("spoken", spoken), ("held_out", held_out)):
        (DATA / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        _log(f"text: {name}: {len(lines):,} sentences, {len(set(' '.join(lines).split())):,} different words")


@main.command()
@data_option
@click.option("--count", default=30_000, show_default=True, help="Utterances to synthesise.")
@click.option("--processes", default=os.cpu_count(), show_default=True, help="Processes that synthesise.")
def speech(data: Path, count: int, processes: int) -> None:
    """Synthesise the sentences in many voices, and the held-out sentences in held-out voices.

    Also converts the human recordings and writes the manifests.
    """
    need_voices()
    human_sets(data, DATA)
    held_out = _sentences("held_out")
    for kind, sentences in {"slt": held_out[:150], "dev-espeak": held_out[500:550], "dev-mbrola": held_out[550:600]}.items():
        held_out_set(sentences, DATA, kind)
    sentences = _sentences("spoken")
    with Pool(processes) as pool:
        for number in range(count // PART):
            if (DATA / f"audio/train-{number:04d}.jsonl").exists():
                continue
            rng = random.Random(number)
            jobs = [(sentences[(number * PART + i) % len(sentences)], draw_voice(rng)) for i in range(PART)]
            write_part(DATA, "train", number, [u for u in pool.imap(utterance, jobs, chunksize=10) if u])
            _log(f"speech: {(number + 1) * PART:,} of {count:,} utterances")
    write_manifest(DATA, "train", ["train", "human"])
    write_manifest(DATA, "dev", ["dev-espeak", "dev-mbrola", "dev-human"])
    write_manifest(DATA, "test", ["slt", "an4"])


if __name__ == "__main__":
    try:
        main()
    except AdaptError as error:
        sys.exit(str(error))
