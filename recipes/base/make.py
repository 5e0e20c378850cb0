"""Prepare the data of the built-in base model, and pack the trained model.

python recipes/base/make.py text --data DIR      # DIR holds the corpora named in text.py, and an4
python recipes/base/make.py speech --data DIR    # needs the output of `text`
adapt base recipes/base -o runs/base
python recipes/base/make.py pack runs/base/model # into adapt/assets/tiny, in half precision
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import click

from adapt.errors import AdaptError

HERE = Path(__file__).parent
DATA = HERE / "data"

data_option = click.option(
    "--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True, help="Corpora folder."
)


def _log(line: str) -> None:
    click.echo(line, err=True)


def _sentences(name: str) -> list[str]:
    return (DATA / f"{name}.txt").read_text(encoding="utf-8").splitlines()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Prepare the data of the built-in base model, and pack the trained model."""


@main.command()
@data_option
def text(data: Path) -> None:
    """Filter and cap the corpora.

    Writes the sentences to speak, the held-out sentences, and the text for the decoder, which also has lists of words.
    """
    from speech import LISTS, known_words, word_list
    from text import general_text

    spoken, held_out, beyond = general_text(data)
    rng, words = random.Random(1), known_words([*spoken, *beyond])
    written = [*spoken, *beyond]
    written += [word_list(words, rng) for _ in range(len(written) // LISTS)]
    DATA.mkdir(exist_ok=True)
    for name, sentences in (("spoken", spoken), ("held_out", held_out), ("text", written)):
        (DATA / f"{name}.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
        _log(f"text: {name}: {len(sentences):,} sentences, {sum(map(len, map(str.split, sentences))):,} words")


@main.command()
@data_option
@click.option("--count", default=40_000, show_default=True, help="Utterances to synthesise.")
@click.option("--processes", default=os.cpu_count(), show_default=True, help="Processes that synthesise.")
def speech(data: Path, count: int, processes: int) -> None:
    """Synthesise the sentences in many voices, and the held-out sentences in held-out voices.

    Also converts the human recordings and writes the manifests.
    """
    from speech import all_voices, held_out_set, human_sets, need_voices, synthesise, write_manifest

    need_voices(all_voices())
    human_sets(data, DATA)
    held_out = _sentences("held_out")
    spoken = {
        "espeak": held_out[:300],
        "slt": held_out[:300],
        "dev-espeak": held_out[300:500],
        "dev-mbrola": held_out[500:600],
    }
    for kind, sentences in spoken.items():
        held_out_set(sentences, DATA, kind)
    # A second of a short sentence teaches as much about letters as a second of a long one, and more fit into a batch.
    synthesise([s for s in _sentences("spoken") if len(s) <= 60], DATA, count, processes, _log)
    for name, kinds in (
        ("train", ["train", "human"]),
        ("dev", ["dev-espeak", "dev-mbrola", "dev-human"]),
        ("test", ["espeak", "slt", "an4"]),
    ):
        write_manifest(DATA, name, kinds)


@main.command()
@click.argument(
    "models", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="MODEL..."
)
@click.option("--out", type=click.Path(path_type=Path), default=HERE.parents[1] / "adapt/assets/tiny")
def pack(models: tuple[Path, ...], out: Path) -> None:
    """Pack a trained MODEL in half precision, with its tokenizer and examples of audio embeddings.

    Several models, from successive stretches of one training, are averaged (Izmailov et al. 2018, "Averaging Weights
    Leads to Wider Optima and Better Generalization"). The examples come from the last one.
    """
    import torch
    from safetensors.torch import load_file, save_file

    from adapt.model.load import load_speech_llm
    from adapt.model.soft_prompt import SLOT_EXAMPLES

    model = models[-1]
    llm = load_speech_llm(str(model), device="cpu")
    states = [load_speech_llm(str(other), device="cpu").model.state_dict() for other in models]
    for name, value in llm.model.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.stack([state[name] for state in states]).mean(0))
    llm.model.half().save_pretrained(out)
    llm.tokenizer.save_pretrained(out)
    examples = load_file(model / SLOT_EXAMPLES)
    save_file({**examples, "vectors": examples["vectors"].half()}, out / SLOT_EXAMPLES)
    size = sum(path.stat().st_size for path in out.iterdir())
    _log(f"pack: {out}: {size / 2**20:.2f} MiB")


if __name__ == "__main__":
    try:
        main()
    except AdaptError as error:
        sys.exit(str(error))
