"""Make the embedded base model again, stage by stage; each stage goes on where it was stopped.

python recipes/base/make.py text --data DIR     # DIR holds the corpora named in text.py, and an4
python recipes/base/make.py speech --data DIR
python recipes/base/make.py encoder             # CTC training of the Conformer
python recipes/base/make.py decoder             # language model, then reading its slot from text alone
python recipes/base/make.py align               # projector, then decoder, on encoder output
python recipes/base/make.py test                # WER per set
python recipes/base/make.py pack                # half precision, into adapt/assets/tiny
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
from functools import partial
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
    """Filter and cap the corpora into train.txt and held_out.txt; what is beyond the caps goes into beyond.txt."""
    from text import general_text

    work.mkdir(parents=True, exist_ok=True)
    for name, sentences in zip(("train", "held_out", "beyond"), general_text(data), strict=True):
        (work / f"{name}.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
        _log(f"text: {name}: {len(sentences):,} sentences, {sum(map(len, map(str.split, sentences))):,} words")


@main.command()
@work_option
@data_option
@click.option("--count", default=120_000, show_default=True, help="Utterances to speak.")
@click.option("--processes", default=os.cpu_count(), show_default=True, help="Processes to speak with.")
def speech(work: Path, data: Path, count: int, processes: int) -> None:
    """Speak the sentences in many voices, and read the human recordings, as log-mel shards."""
    from speech import held_out_sets, human_sets, synthesise

    human_sets(data, work)
    held_out = _sentences(work, "held_out")  # the decoder's development text is what follows here
    held_out_sets(held_out[:300], work, ["espeak", "slt"])
    held_out_sets(held_out[300:500], work, ["dev-espeak"])
    # Short sentences carry as much about letters per second as long ones, and fit more into a batch.
    short = [s for s in _sentences(work, "train") if len(s) <= 60]
    synthesise(short, work, count, processes, _log)


def _shards(work: Path, name: str):
    from adapt.train.base import Shards

    return Shards(work / name).grow(1)


TEST_SETS, DEV_SETS = ("espeak", "slt", "an4"), ("dev-espeak", "dev-human")


def _finish(work: Path, name: str, model, log: list[dict]) -> None:
    model.save_pretrained(work / name)
    (work / f"{name}.json").write_text(json.dumps(log) + "\n", encoding="utf-8")
    shutil.rmtree(work / f"checkpoints-{name}")


def _done(work: Path, name: str) -> bool:
    if (work / f"{name}.json").exists():
        _log(f"{name}: done before; delete {work / name}.json to do it again")
        return True
    return False


steps_option = partial(click.option, "--steps", type=click.IntRange(1), show_default=True, help="Optimiser steps.")
shards_option = click.option("--shards", default=120, show_default=True, help="Shards of 1,000 utterances to train on.")
batch_option = partial(click.option, "--batch-size", type=click.IntRange(1), show_default=True, help="Utterances.")
bf16_option = click.option("--bf16/--no-bf16", default=True, show_default=True, help="Mixed precision.")
workers_option = click.option("--workers", default=0, show_default=True, help="Processes that make batches ahead.")


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@main.command()
@work_option
@steps_option(default=3600)
@batch_option(default=256)
@shards_option
@bf16_option
@workers_option
@click.option("--learning-rate", default=2e-3, show_default=True, help="Its peak.")
@click.option("--start", type=click.Path(path_type=Path, exists=True), help="Folder of an encoder to go on from.")
@click.option("--batch-statistics/--running-statistics", "statistics", default=True, help="Of batch normalisation.")
def encoder(
    work: Path,
    steps: int,
    batch_size: int,
    shards: int,
    bf16: bool,
    workers: int,
    learning_rate: float,
    start: Path | None,
    statistics: bool,
) -> None:
    """CTC training of the Conformer; may begin while speech is still being made."""
    import torch
    from settings import ALPHABET, ENCODER
    from transformers import ParakeetForCTC

    from adapt.train.base import Shards, train_encoder

    if _done(work, "encoder"):
        return
    torch.manual_seed(1)
    model = (ParakeetForCTC.from_pretrained(start) if start else ParakeetForCTC(ENCODER)).to(_device())
    if start:  # the first convolutions are a third of the time, and have learned what they can
        model.encoder.subsampling.layers.requires_grad_(False)
    speech, human = Shards(work / "train"), Shards(work / "human")
    dev = {name: _shards(work, name) for name in DEV_SETS}
    more = {"steps": steps, "batch_size": batch_size, "shards": shards, "learning_rate": learning_rate, "bf16": bf16}
    more |= {"short": 0.0 if start else 0.05, "batch_statistics": statistics}
    folder = work / "checkpoints-encoder"
    log = train_encoder(model, speech, human, dev, ALPHABET, folder=folder, workers=workers, **more)
    _finish(work, "encoder", model, log)


def _composed(work: Path, encoder: bool = False, decoder: str | None = None):
    """The composed model with what is trained so far."""
    import torch
    from settings import composed_config
    from transformers import AutoModelForCausalLM, AutoTokenizer, ParakeetForCTC

    from adapt.model.composed import ComposedForSpeechRecognition
    from adapt.model.speech_llm import view

    torch.manual_seed(2)
    model = ComposedForSpeechRecognition(composed_config())
    if encoder:
        model.encoder.load_state_dict(ParakeetForCTC.from_pretrained(work / "encoder").state_dict())
    if decoder:
        trained = AutoModelForCausalLM.from_pretrained(work / decoder, dtype=torch.float32)
        model.language_model.load_state_dict(trained.state_dict())
    return view("tiny", model.to(_device()), AutoTokenizer.from_pretrained(work / "tokenizer"))


@main.command()
@work_option
@click.option("--lm-steps", default=1500, show_default=True, help="Steps as a language model.")
@click.option("--read-steps", default=4000, show_default=True, help="Steps of reading spelled slots.")
@batch_option(default=256)
@bf16_option
@workers_option
def decoder(work: Path, lm_steps: int, read_steps: int, batch_size: int, bf16: bool, workers: int) -> None:
    """Language-model training of the decoder, then reading its slot, both from text alone."""
    from text import train_tokenizer

    from adapt.train.base import train_decoder

    human = sorted({item.text for item in _shards(work, "human").items})
    texts = [*_sentences(work, "train"), *human * 5]
    if not (work / "tokenizer").exists():
        train_tokenizer(texts, 1000).save_pretrained(work / "tokenizer")
    dev = _sentences(work, "held_out")[500:]
    for name, steps, rate in (("lm", lm_steps, 1.5e-3), ("read", read_steps, 1e-3)):
        if not _done(work, name):
            llm = _composed(work, decoder="lm" if name == "read" else None)
            more = {"steps": steps, "batch_size": batch_size, "learning_rate": rate, "bf16": bf16, "workers": workers}
            folder = work / f"checkpoints-{name}"
            log = train_decoder(llm, texts, dev, reads=name == "read", folder=folder, **more)
            _finish(work, name, llm.model.language_model, log)


@main.command(name="align")
@work_option
@steps_option(default=300)
@batch_option(default=48)
@shards_option
@bf16_option
@workers_option
@click.option("--decoder-rate", default=3e-4, show_default=True, help="Peak learning rate of the decoder.")
@click.option("--start", type=click.Path(path_type=Path, exists=True), help="Folder of a speech LLM to go on from.")
def align_command(
    work: Path,
    steps: int,
    batch_size: int,
    shards: int,
    bf16: bool,
    workers: int,
    decoder_rate: float,
    start: Path | None,
) -> None:
    """Projector on encoder output, then the decoder too, on what is spoken and on as many other texts."""
    import torch
    from speech import LISTS, known_words, word_list

    from adapt.model.composed import ComposedForSpeechRecognition
    from adapt.train.base import AlignSettings, Shards, align

    if _done(work, "aligned"):
        return
    llm = _composed(work, encoder=True, decoder=None if start else "read")
    if start:
        earlier = ComposedForSpeechRecognition.from_pretrained(start, dtype=torch.float32)
        for part in ("projector", "language_model"):
            getattr(llm.model, part).load_state_dict(getattr(earlier, part).state_dict())
    texts, rng = [*_sentences(work, "train"), *_sentences(work, "beyond")], random.Random(1)
    words = known_words(texts)
    texts += [word_list(words, rng) for _ in range(len(texts) // LISTS)]
    settings = AlignSettings(steps, batch_size, shards, decoder_rate=decoder_rate)
    if start:  # the decoder reads already, and the projector has little to learn
        settings = dataclasses.replace(settings, projector_rate=decoder_rate, decoder_from=0.0)
    log = align(
        llm,
        Shards(work / "train"),
        Shards(work / "human"),
        texts,
        settings,
        folder=work / "checkpoints-aligned",
        bf16=bf16,
        workers=workers,
    )
    _finish(work, "aligned", llm.model, log)
    llm.tokenizer.save_pretrained(work / "aligned")


@main.command()
@work_option
@click.option("--model", "name", default="tiny", show_default=True, help="A built-in base, or a folder.")
@click.option("--num-beams", default=4, show_default=True, type=click.IntRange(1))
@click.option("--dev", is_flag=True, help="The development sets instead.")
def test(work: Path, name: str, num_beams: int, dev: bool) -> None:
    """WER of the decoder and of the encoder's own greedy path, for each held-out set."""
    import torch

    from adapt.decode.transcribe import generate
    from adapt.model.speech_llm import load
    from adapt.train.base import ctc_texts, fixed_batches, word_error_rate

    llm = load(name)
    click.echo(f"{'set':<10} {'voice':<20} {'utterances':>10} {'WER':>6} {'CTC':>6}")
    for kind in DEV_SETS if dev else TEST_SETS:
        speech = _shards(work, kind)
        references, paths = ctc_texts(llm.model.encoder, speech, llm.model.config.alphabet)
        voices, hypotheses = [item.voice for item in speech.items], []
        for _, features, mask in fixed_batches(speech, llm.device, 30):
            with torch.no_grad():
                slots = llm.model.get_audio_features(features, mask)
            hypotheses += generate(llm, [llm.prompt(slot) for slot in slots], num_beams)
        for voice in ("all", *sorted(set(voices))):
            rows = [i for i, v in enumerate(voices) if voice in ("all", v)]
            wers = [
                100 * word_error_rate([references[i] for i in rows], [texts[i] for i in rows])
                for texts in (hypotheses, paths)
            ]
            click.echo(f"{kind:<10} {voice:<20} {len(rows):>10} {wers[0]:>6.1f} {wers[1]:>6.1f}")


@main.command()
@work_option
@click.option("--out", type=click.Path(path_type=Path), default=HERE.parents[1] / "adapt/assets/tiny")
def pack(work: Path, out: Path) -> None:
    """Half precision, with the tokenizer and examples of slot vectors, at most 16 MiB."""
    import torch
    from safetensors.torch import save_file

    from adapt.model.prompt import SLOT_EXAMPLES
    from adapt.model.speech_llm import load
    from adapt.train.base import features_of

    llm = load(str(work / "aligned"), device="cpu")
    speech = _shards(work, "train")
    items = speech.items[:: len(speech.items) // 12][:12]
    with torch.no_grad():
        vectors = llm.model.get_audio_features(*features_of(*speech.audio(items)))
    llm.model.half().save_pretrained(out)
    llm.tokenizer.save_pretrained(out)
    lengths = torch.tensor([len(v) for v in vectors])
    save_file({"vectors": torch.cat(vectors).half(), "lengths": lengths}, out / SLOT_EXAMPLES)
    size = sum(path.stat().st_size for path in out.iterdir())
    _log(f"pack: {out}: {size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
