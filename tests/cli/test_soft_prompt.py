"""`adapt prompt`: the length of the soft prompt, given or chosen by the development loss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from adapt.recipe.choices import PROMPT_LENGTHS
from adapt.train import fit, soft_prompt
from adapt.train.common import TrainingResult, best_row

from ..session import adapt
from .conftest import overrides

FILES = ("prompt/soft_prompt.safetensors", "prompt/log.json")


def learned(recipe: Path, out: Path, length: object):
    """`adapt prompt` with a length, in fp32."""
    settings = (f"prompt.length={length}", "prompt.learning_rate=0.05", "precision=fp32")
    return adapt("prompt", recipe, "-o", out, "--device", "cpu", *overrides(*settings))


def test_auto_keeps_the_length_with_the_lowest_loss_as_that_length_alone_learns_it(recipe, tmp_path):
    chosen = learned(recipe, tmp_path / "auto", "auto")
    assert chosen.exit_code == 0, chosen.output
    losses = json.loads((tmp_path / "auto" / FILES[1]).read_text())["dev_losses"]
    assert [int(length) for length in losses] == list(PROMPT_LENGTHS) and len({*losses.values()}) == len(losses)
    best = min(losses, key=losses.get)
    for length in (best, *(other for other in losses if other != best)):
        out = tmp_path / length
        assert learned(recipe, out, length).exit_code == 0
        log = json.loads((out / FILES[1]).read_text())
        assert best_row(log["log"])["dev_loss"] == losses[length] and "dev_losses" not in log
        assert len(load_file(out / FILES[0])["soft_prompt"]) == int(length)
        same = (out / FILES[0]).read_bytes() == (tmp_path / "auto" / FILES[0]).read_bytes()
        assert same == (length == best), length
    (line,) = (line for line in chosen.stderr.splitlines() if line.startswith("prompt  ") and "vectors" in line)
    assert f" {best} vectors, best at step " in line
    assert all(f"{loss:.3f} with {length}" in line for length, loss in losses.items()), line
    again = learned(recipe, tmp_path / "auto", "auto")
    assert f" {best} vectors, best at step " in again.stderr and again.stderr.count("as before") == 2, again.stderr


@pytest.mark.parametrize(("killed_at", "resumes_at"), [(0, 0), (3, 2)], ids=["between two lengths", "within one"])
def test_a_kill_goes_on_with_the_length_that_it_was_at_to_the_same_result(
    recipe, tmp_path, monkeypatch, killed_at, resumes_at
):
    assert learned(recipe, tmp_path / "whole", "auto").exit_code == 0
    steps = []

    def count(self, args, state, control, **kwargs):
        steps.append((self.label, state.global_step))
        if steps[-1] == kill:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit._Progress, "on_step_begin", count, raising=False)
    kill = ("prompt 20", killed_at)
    assert learned(recipe, tmp_path / "killed", "auto").exit_code != 0 and steps[-1] == kill
    kill, steps[:] = None, []
    again = learned(recipe, tmp_path / "killed", "auto")
    assert again.exit_code == 0 and steps[0] == ("prompt 20", resumes_at), again.output
    for file in FILES:
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_of_equally_good_lengths_the_shortest_is_kept(recipe, tmp_path, monkeypatch):
    losses = dict(zip(PROMPT_LENGTHS, (2.0, 1.5, 1.7, 1.5, 1.5), strict=True))

    def learn(*_, out, **__):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(out.stem)
        return TrainingResult([{"step": 0, "dev_loss": losses[int(out.stem)]}], 0)

    monkeypatch.setattr(soft_prompt, "learn_soft_prompt", learn)
    done = learned(recipe, tmp_path / "run", "auto")
    assert (tmp_path / "run" / FILES[0]).read_text() == "10", done.output
