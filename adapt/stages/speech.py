"""Stage `speech`: sentences of the domain text, spoken by a speech synthesiser that the user names."""

from __future__ import annotations

import hashlib
import os
import random
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from adapt.errors import DataError, first_line
from adapt.run import read_json, write_json
from adapt.stages import plan
from adapt.stages.context import BATCH, Run
from adapt.stages.text import FILES, training_text

if TYPE_CHECKING:
    import torch

FOLDER = "speech"
SENTENCES = f"{FOLDER}/sentences.json"  # `{"train": {sentence: file}, "dev": …}`
DEV = 100  # development sentences that are spoken, at most
SECONDS = 60  # that the command may take for a sentence
OUT = "{out}"


def speech(run: Run) -> None:
    """Write `speech/`: a wav file for each sentence; those that are there are not spoken again."""
    settings = run.recipe.decoder

    def work(scratch: Path) -> None:
        rng, lines = random.Random(run.recipe.seed), training_text(run)
        texts = {
            "train": rng.sample(lines, min(settings.spoken, len(lines))),
            "dev": run.lines(plan.DEV)[:DEV],
        }
        files = {name: {text: _file(settings.speak, text) for text in texts[name]} for name in texts}
        _speak(settings.speak, {**files["train"], **files["dev"]}, run.path(FOLDER))
        write_json(run.path(SENTENCES), files)

    record = {"decoder": {"speak": settings.speak, "spoken": settings.spoken}, "seed": run.recipe.seed}

    def note() -> str:
        return f"{len(read_json(run.path(SENTENCES))['train']):,} sentences of the text"

    run.stage("speech", record, run.paths(*FILES), [FOLDER], work, note)


def _file(command: str, text: str) -> str:
    """The name of the file of a sentence, which another command does not reuse."""
    return hashlib.sha256(f"{command}\n{text}".encode()).hexdigest()[:16] + ".wav"


def _speak(command: str, files: dict[str, str], folder: Path) -> None:
    """Speak the sentences whose files are missing, as many at once as there are processors.

    Raises DataError for a command that fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = {text: folder / name for text, name in files.items() if not (folder / name).exists()}
    form = "{desc:<10} [{bar:20}] {percentage:3.0f}%  {n_fmt}/{total_fmt} sentences  {remaining} left"
    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(total=len(missing), desc="speech", bar_format=form) as bar:
        jobs = [pool.submit(_spoken, command, text, path) for text, path in missing.items()]
        try:
            for job in jobs:
                job.result()
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _spoken(command: str, text: str, path: Path) -> None:
    """Run the command for a sentence. Raises DataError if it fails or writes no file."""
    unfinished = path.with_name(f"unfinished-{path.name}")
    words = [word.replace(OUT, str(unfinished)) for word in shlex.split(command)]
    way_out = "try it in a shell: it reads a sentence from standard input and writes a wav file to {out}"
    try:
        options = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "timeout": SECONDS}
        done = subprocess.run(words, input=f"{text}\n", **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"decoder.speak: {first_line(error)}; {way_out}") from None
    if done.returncode or not unfinished.exists():
        said = (done.stderr.strip() or "it wrote no file").splitlines()[-1]
        raise DataError(f"decoder.speak: exit status {done.returncode} for {text!r}: {said}; {way_out}")
    unfinished.replace(path)


def spoken(run: Run) -> tuple[list[str], list[str], dict[str, torch.Tensor]]:
    """Training and development sentences that were spoken, and the audio embeddings `[slots, hidden]` of each.

    Sentences of more audio than the base takes at once are left out and reported, because it would hear a part of them.
    Raises DataError if none remains to train on.
    """
    from adapt.model.features import SAMPLE_RATE, read_audio

    sentences, speech_llm = read_json(run.path(SENTENCES)), run.speech_llm(run.start)
    files = list({**sentences["train"], **sentences["dev"]}.items())
    embeddings: dict[str, torch.Tensor] = {}
    for start in tqdm(range(0, len(files), BATCH), desc="hearing", file=sys.stderr, leave=False):
        samples = {text: read_audio(run.path(FOLDER, name)) for text, name in files[start : start + BATCH]}
        short = {text: one for text, one in samples.items() if len(one) <= speech_llm.max_seconds * SAMPLE_RATE}
        if short:
            embeddings |= dict(zip(short, speech_llm.audio_embeddings(list(short.values())), strict=True))
    train, dev = ([text for text in sentences[part] if text in embeddings] for part in ("train", "dev"))
    if left_out := len(files) - len(embeddings):
        problem = f"{left_out} of {len(files)} sentences take more than the {speech_llm.max_seconds:g} s of the base"
        if not train:
            raise DataError(f"decoder.speak: {problem}; write shorter sentences")
        tqdm.write(f"decoder.speak: {problem}, and are left out", file=sys.stderr)
    return train, dev, embeddings
