"""What tests of whole commands share: a call of the command line, a small recipe, and an adapter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from click.testing import CliRunner, Result
from transformers import LogitsProcessor

from adapt.cli import main

WORDS = ["play", "stop", "louder", "again", "please", "now", "tell", "what"]


class EndsAfter(LogitsProcessor):
    """Ends each utterance of a batch after its number of tokens. ends: the tokens that end a transcript."""

    def __init__(self, ends: list[int], lengths: list[int]):
        self.ends, self.lengths = ends, lengths

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        of_utterances = scores.clone().unflatten(0, (len(self.lengths), -1))
        for row, length in zip(of_utterances, self.lengths, strict=True):
            row[:, self.ends] += 100 if ids.shape[1] >= length else -100
        return of_utterances.flatten(0, 1)


def adapt(*arguments: object) -> Result:
    """`adapt ARGUMENTS`, in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


def write_manifest(path: Path, ids: list[int], text: str = "play the song", entities: bool = True) -> None:
    """A manifest of `<id>.wav` files that all say `text`; entities: whether it names "the song" as one."""
    rows = [{"id": i, "audio": f"{i}.wav", "text": text} for i in ids]
    for row in rows:
        row["entities"] = [{"text": "the song", "type": "track"}] if entities else []
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def launched(*words: object, program: str | None = None) -> subprocess.CompletedProcess:
    """The command line in two processes of a launcher. program: Python that calls it in another way; None: as it is."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    called = ["--no-python", sys.executable, "-c", program] if program else ["-m", "adapt"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*launcher, *called, *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def lora(base: str, folder: Path, seed: int, spread: float = 0.3) -> Path:
    """Write an adapter of random weights, as a run would, and return its folder."""
    from adapt.model import adapter
    from adapt.model.load import load_speech_llm

    torch.manual_seed(seed)
    llm = load_speech_llm(base, "cpu")
    model = adapter.add_lora(llm, rank=2, alpha=4, dropout=0.0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=spread)
    adapter.save_adapter(folder, model, {"name": folder.name, "base": base, "pseudo_audio": "empty", "step": 1})
    return folder
