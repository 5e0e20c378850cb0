from __future__ import annotations

import shutil

import pytest
import torch

from adapt.errors import TrainingError
from adapt.train.fit import fit


class Killed(Exception):
    pass


def train(folder, kill=None, patience=None):
    """A training of eight steps; its weights, the steps that it computed, and its evaluations."""
    model, steps = torch.nn.Linear(2, 1, bias=False), []
    torch.nn.init.ones_(model.weight)

    def loss_of(model, batch):
        steps.append(batch["step"])
        if batch["step"] == kill:
            raise Killed
        return model(torch.ones(2) / (1 + batch["step"])).sum()

    stop = (lambda log: sum("seen" in row for row in log) > patience) if patience else (lambda log: False)
    log = fit(
        model,
        lambda step: {"step": step},
        loss_of,
        steps=8,
        groups=[{"params": list(model.parameters()), "lr": 0.1}],
        warmup=1,
        folder=folder,
        save_every=2,
        evaluate=lambda step, log: {"seen": True},
        stop=stop,
    )
    return model.weight.detach(), steps, [row for row in log if "seen" in row]


def test_a_training_that_was_killed_while_it_saved_resumes_from_the_checkpoint_before(tmp_path):
    whole, *_ = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "killed", kill=5)
    half = tmp_path / "killed/checkpoint-6"  # only its weights were written
    shutil.copytree(tmp_path / "killed/checkpoint-4", half)
    (half / "trainer_state.json").unlink()
    weights, steps, _ = train(tmp_path / "killed")
    assert steps == [4, 5, 6, 7], "it resumes from step 4"
    assert torch.equal(weights, whole), "the weights are those of a training that was not killed"


def test_a_training_that_was_killed_after_its_early_stop_does_not_go_on(tmp_path):
    _, steps, evaluations = train(tmp_path, patience=2)
    assert steps == [0, 1, 2, 3]
    assert train(tmp_path, patience=2)[1:] == ([], evaluations)


def test_a_loss_that_grows_stops_the_training_before_it_is_no_number(tmp_path):
    module = torch.nn.Linear(1, 1)

    def loss_of(module: torch.nn.Module, batch: dict) -> torch.Tensor:
        return 0 * module.weight.sum() + (2.0 if batch["step"] < 10 else 7.0)

    groups = [{"params": list(module.parameters()), "lr": 1e-3}]
    more = {"steps": 40, "groups": groups, "warmup": 1, "folder": tmp_path, "save_every": 5, "label": "prompt"}
    with pytest.raises(TrainingError, match=r"prompt: the loss exploded, from 2.00 to 7.00 at step 15"):
        fit(module, lambda step: {"step": step}, loss_of, **more)
