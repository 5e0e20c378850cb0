"""Learned prompts: what they begin as, what learns, and that what is saved says the same again."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from adapt.decode.transcribe import generate
from adapt.errors import ModelError
from adapt.model import learned as learning
from adapt.model.learned import LearnedPrompt, ids_around, with_learned, with_template
from adapt.model.prompt import load as load_prompt
from adapt.model.prompt import save as save_prompt
from adapt.text.template import parse
from adapt.train.project import learn
from adapt.train.stages import Replay, mean_loss

TEMPLATE = "<p:play the song><speech>now <p:3>"


def logits(llm, slot) -> torch.Tensor:
    with torch.no_grad():
        return llm.forward(llm.prompt(slot)[None])


@pytest.fixture
def slot(tiny):
    return torch.randn(5, tiny.hidden, generator=torch.Generator().manual_seed(0))


def test_segments_are_tokenised_by_themselves_with_one_beginning(tiny):
    encode = tiny.tokenizer.encode
    before, after = ids_around(parse("play the <speech>song"), tiny.tokenizer)
    assert before == [1, *encode("play the ", add_special_tokens=False)] and after == encode(
        "song", add_special_tokens=False
    )
    # The space at the end stays in the prompt: the target begins with the sub-word that it begins with alone.
    assert tiny.target_ids("song") == [*after, 2]
    assert ids_around(parse("<speech><s>play"), tiny.tokenizer)[0] == []
    assert ids_around(parse("<speech><s>play"), tiny.tokenizer)[1][0] == 1


@pytest.mark.parametrize("method", ["tokens", "residual"])
def test_it_begins_as_the_prompt_that_is_written(tiny, slot, method):
    template = "<p:play the song><speech>now"
    plain = with_template(tiny, template)
    ours = with_learned(tiny, LearnedPrompt(tiny, template, method))
    torch.testing.assert_close(logits(ours, slot), logits(plain, slot))
    assert not torch.allclose(logits(plain, slot)[:, -1], logits(tiny, slot)[:, -1], atol=1e-3)


def test_a_token_of_id_0_begins_as_its_embedding(tiny):
    table = tiny.model.get_input_embeddings().weight
    unknown = LearnedPrompt(tiny, "<p:<unk\\>><speech>", "tokens")
    assert torch.equal(unknown.vectors["0"], table[:1])


@pytest.mark.parametrize("method", ["tokens", "mlp", "residual"])
def test_learning_helps_and_what_is_saved_says_the_same(tiny, noise, slot, method, tmp_path):
    texts = ["play the song", "stop the music now", "tell me what it is"] * 2
    pairs = Replay(tiny.slot_vectors(noise) * 2, [tiny.target_ids(t) for t in texts])
    torch.manual_seed(0)
    prompt = LearnedPrompt(tiny, TEMPLATE, method, init="stats", examples=pairs.slots)
    before = mean_loss(with_learned(tiny, prompt), pairs.slots, pairs.targets)
    untouched = {name: p.detach().clone() for name, p in tiny.model.named_parameters()}
    more = {"folder": tmp_path / "work", "out": tmp_path / "prompt.safetensors", "seed": 1, "precision": "fp32"}
    learn(tiny, prompt, pairs, pairs, steps=20, batch_size=3, learning_rate=0.01, eval_every=5, **more)
    assert mean_loss(with_learned(tiny, prompt), pairs.slots, pairs.targets) < before - 0.1
    assert all(torch.equal(p, untouched[name]) for name, p in tiny.model.named_parameters())
    again = learning.load(tmp_path / "prompt.safetensors", tiny)
    ours, theirs = (with_learned(tiny, p) for p in (prompt, again))
    assert torch.equal(logits(ours, slot), logits(theirs, slot))
    assert generate(ours, [ours.prompt(slot)], 2, 5) == generate(theirs, [theirs.prompt(slot)], 2, 5)
    plain = load_prompt(tmp_path / "prompt.safetensors", tiny)  # as a soft prompt
    count = len(tiny.tokenizer.encode("play the song", add_special_tokens=False)) + 3
    assert plain.shape == (count, tiny.hidden)
    torch.testing.assert_close(plain[:-3], prompt.rows(tiny)[0][1:].detach())
    other = "<p:stop the music><speech><p:3>"
    if method == "tokens":
        with pytest.raises(ModelError, match="only a projector takes another template"):
            learning.load(tmp_path / "prompt.safetensors", tiny, other)
    else:
        assert (
            logits(
                with_learned(
                    tiny, learning.load(tmp_path / "prompt.safetensors", tiny, "<p:stop it><speech>now <p:3>")
                ),
                slot,
            )
            .isfinite()
            .all()
        )


def test_what_is_refused(tiny, tmp_path):
    with pytest.raises(ModelError, match="has nothing to learn by 'tokens'"):
        LearnedPrompt(tiny, "play <speech>", "tokens")
    with pytest.raises(ModelError, match="has nothing to learn by 'mlp'"):
        LearnedPrompt(tiny, "<speech>", "mlp")
    save_prompt(tmp_path / "soft.safetensors", torch.ones(2, tiny.hidden))
    with pytest.raises(ModelError, match="a soft prompt alone"):
        learning.load(tmp_path / "soft.safetensors", tiny)
    with pytest.raises(ModelError, match="cannot be read"):
        learning.load(tmp_path / "none.safetensors", tiny)
    LearnedPrompt(tiny, "<p:play><speech>", "mlp", size=8).save(tmp_path / "it.safetensors", tiny)
    assert "soft_prompt" in load_file(tmp_path / "it.safetensors")
