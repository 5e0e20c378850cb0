"""A recipe for `adapt base` that is trained in seconds, and the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

RECIPE = """data:
  train: train.jsonl
  dev: train.jsonl
  test: train.jsonl
  text: text.txt
encoder: {hidden_size: 16, heads: 2, layers: 1, channels: 4, steps: 8, batch_seconds: 4, warmup_steps: 2}
llm: {hidden_size: 16, heads: 2, layers: 1, intermediate_size: 32, vocab_size: 60, lm_steps: 4, read_steps: 4}
align: {prompt: <speech><text>, projector_size: 16, steps: 8, batch_seconds: 4, rank: 2}
transcribe: {num_beams: 2, max_new_tokens: 8}
score: {resamples: 50}
"""
WORDS = "a bad cab dab add dad cad bed fee jug him kit lot map nor pus quiz very wax zoo gym"


@pytest.fixture
def folder(manifest) -> Path:
    """The folder of RECIPE, with speech of tones and text."""
    lines = [f"{one} {other}" for one in WORDS.split() for other in WORDS.split()]
    (manifest.parent / "text.txt").write_text("\n".join(lines) + "\n")
    (manifest.parent / "recipe.yaml").write_text(RECIPE)
    return manifest.parent


@pytest.fixture
def adapt() -> Callable:
    """The command line: `adapt("base", folder, ...)`."""
    from adapt.cli import main

    return lambda *arguments: CliRunner().invoke(main, [str(a) for a in arguments])
