from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from adapt.recipe.domain import Prompt
from adapt.train.common import mean_loss
from adapt.train.soft_prompt import learn_soft_prompt

TEXT = ["play the song", "stop the music now", "what is it", "louder please", "play it again", "tell me what"] * 3


def test_a_soft_prompt_lowers_the_loss_and_leaves_the_model_unchanged(tiny, noise, tmp_path):
    before = {k: v.clone() for k, v in tiny.model.state_dict().items()}
    out = tmp_path / "soft_prompt.safetensors"
    settings = Prompt(length=5, init="audio", steps=12, batch_size=4, learning_rate=0.05, eval_every=4)
    more = {"examples": tiny.audio_embeddings(noise), "folder": tmp_path / "work", "seed": 1, "precision": "auto"}
    tuned = learn_soft_prompt(tiny, TEXT[:12], TEXT[12:], settings, out=out, **more)
    assert all(torch.equal(v, before[k]) for k, v in tiny.model.state_dict().items()), "the model is unchanged"
    rows = {row["step"]: row["dev_loss"] for row in tuned.log if "dev_loss" in row}
    assert rows[tuned.best_step] == min(rows.values()) < rows[0], "the best step lowers the development loss"
    vectors = load_file(out)["soft_prompt"]
    targets = [tiny.target_ids(t) for t in TEXT[12:]]
    loss = mean_loss(tiny, [vectors] * len(targets), targets)
    assert loss == pytest.approx(rows[tuned.best_step], abs=1e-6), "the file holds the vectors of the best step"
