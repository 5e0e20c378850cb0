"""Prepare the data of the base `small`: text, and speech in a neural voice and in those of RHVoice.

python recipes/small/make.py text --data DIR     # DIR holds the corpora that recipes/base/text.py names, and an4
python recipes/small/make.py speech --data DIR   # needs the output of `text`
adapt base recipes/small
python recipes/small/make.py pack runs/small     # into adapt/assets/small, in half precision
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from importlib.util import find_spec
from multiprocessing import Pool
from pathlib import Path

import click

HERE = Path(__file__).parent
DATA = HERE / "data"
sys.path.insert(0, str(HERE.parent / "base"))  # its text and its voices

from speech import (  # noqa: E402
    DEV_MBROLA,
    DEV_VARIANTS,
    PART,
    espeak_variants,
    held_out_set,
    human_sets,
    need_voices,
    rhvoice_voices,
    write_manifest,
    write_part,
)
from text import general_text  # noqa: E402
from voices import draw_voice, utterance  # noqa: E402
from wide_text import named_sentences, names, rare_lists, rare_words  # noqa: E402

from adapt.errors import AdaptError, DataError  # noqa: E402

# Sentences as they come, so that frequent words are heard often, lists of rare words, and sentences with names.
GENERAL, RARE, NAMED = 26_000, 6_000, 6_000
# Utterances to train on, by engine: an LLM that reads Whisper's transcripts of robotic voices learns to doubt them.
ENGINES = {"hibari": 2_800, "rhvoice": 300}
HUMAN = 1_400

data_option = click.option(
    "--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True, help="Corpora folder."
)


def _log(line: str) -> None:
    click.echo(line, err=True)


def _sentences(name: str) -> list[str]:
    path = DATA / f"{name}.txt"
    if not path.exists():
        raise DataError(f"{path}: no such file; make it first: python recipes/small/make.py text --data DIR")
    return path.read_text(encoding="utf-8").splitlines()


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
    spoken = [*sentences[:GENERAL], *rng.sample(rare, min(RARE, len(rare))), *named_sentences(names(data), NAMED, rng)]
    rng.shuffle(spoken)
    DATA.mkdir(exist_ok=True)
    for name, lines in (("spoken", spoken), ("held_out", held_out)):
        (DATA / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        _log(f"text: {name}: {len(lines):,} sentences, {len(set(' '.join(lines).split())):,} different words")


@main.command()
@data_option
@click.option("--processes", default=os.cpu_count(), show_default=True, help="Processes that synthesise.")
def speech(data: Path, processes: int) -> None:
    """Synthesise sentences in a neural voice and in RHVoice's, and the held-out sentences in held-out voices.

    Also converts the human recordings and writes the manifests.
    """
    if find_spec("hibari") is None:
        raise DataError("speech: hibari-tts is not installed; install it with pip, as recipes/small/README.md says")
    held_out_voices = [("espeak", f"mb-{name}", None) for name in DEV_MBROLA] + espeak_variants(DEV_VARIANTS)
    need_voices([*held_out_voices, ("flite", "slt", "none"), *rhvoice_voices()])
    held_out, spoken = _sentences("held_out"), _sentences("spoken")
    human_sets(data, DATA)
    for kind, sentences in {
        "slt": held_out[:150],
        "dev-espeak": held_out[500:550],
        "dev-mbrola": held_out[550:600],
    }.items():
        held_out_set(sentences, DATA, kind)
    rng = random.Random(1)
    engines = [engine for engine, count in ENGINES.items() for _ in range(count)]
    rng.shuffle(engines)
    jobs = [(text, draw_voice(engine, rng)) for text, engine in zip(spoken, engines, strict=False)]
    with Pool(processes) as pool:
        for number in range(-(-len(jobs) // PART)):
            if (DATA / f"audio/train-{number:04d}.jsonl").exists():
                continue
            part = jobs[number * PART : (number + 1) * PART]
            write_part(DATA, "train", number, [u for u in pool.imap(utterance, part, chunksize=10) if u])
            _log(f"speech: {number * PART + len(part):,} of {len(jobs):,} utterances")
    write_manifest(DATA, "human", ["human"])
    write_manifest(DATA, "train", ["train"])
    lines = (DATA / "human.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    lines = [*(DATA / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True), *rng.sample(lines, HUMAN)]
    rng.shuffle(lines)
    (DATA / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    write_manifest(DATA, "dev", ["dev-espeak", "dev-mbrola", "dev-human"])
    write_manifest(DATA, "test", ["slt", "an4"])


# Revision, megabytes and SHA-256 of model.safetensors on the hub.
PARTS = {
    "encoder": {
        "name": "openai/whisper-base",
        "folder": "whisper-base",
        "revision": "e37978b90ca9030d5170a5c07aadb050351a65bb",
        "megabytes": 290,
        "sha256": "07cadb9f25677c8d50df603e66a98fbd842cce45047139baeb16e6219a1e807b",
    },
    "llm": {
        "name": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "folder": "smollm2-135m",
        "revision": "12fd25f77366fa6b3b4b768ec3050bf629380bac",
        "megabytes": 269,
        "sha256": "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c",
    },
}


@main.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path), default=HERE.parents[1] / "adapt/assets/small")
def pack(run: Path, out: Path) -> None:
    """Pack what the run of `adapt base` in folder RUN trained, in half precision, and what its parts are."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModel, AutoModelForCausalLM

    from adapt.model.assemble import PARTS as PARTS_FILE
    from adapt.model.assemble import tensor_hash
    from adapt.model.bases import parameters
    from adapt.model.first_pass import MISHEARINGS
    from adapt.model.soft_prompt import SLOT_EXAMPLES
    from adapt.model.trained import TRAINED

    stages = json.loads((run / "run.json").read_text(encoding="utf-8"))["stages"]
    encoder = AutoModel.from_pretrained(stages["encoder"]["settings"]["encoder"]["start"], dtype=torch.float32)
    llm = AutoModelForCausalLM.from_pretrained(stages["align"]["settings"]["llm"], dtype=torch.float32)
    tensors = {"encoder": tensor_hash(encoder.state_dict()), "llm": tensor_hash(llm.state_dict())}
    out.mkdir(exist_ok=True)
    parts = {key: {**part, "tensors": tensors[key]} for key, part in PARTS.items()}
    facts = {"parameters": parameters(run / "model"), "parts": parts}
    (out / PARTS_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(run / "model/config.json", out / "config.json")
    if (run / "model" / MISHEARINGS).exists():
        shutil.copyfile(run / "model" / MISHEARINGS, out / MISHEARINGS)
    for name in (TRAINED, SLOT_EXAMPLES):
        state = load_file(run / "model" / name)
        save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, out / name)
    size = sum(path.stat().st_size for path in out.iterdir())
    _log(f"pack: {out}: {size / 2**20:.2f} MiB")


if __name__ == "__main__":
    try:
        main()
    except AdaptError as error:
        sys.exit(str(error))
    except FileNotFoundError as error:
        sys.exit(f"{error.filename}: no such file; recipes/small/README.md says what is needed")
