"""Learned prompts: their initial values, what is trained, and that a saved prompt gives the same logits."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from adapt.decode.beam_search import generate
from adapt.errors import ModelError
from adapt.model import learned_prompt as learning
from adapt.model.learned_prompt import LearnedPrompt, ids_around, with_learned, with_template
from adapt.model.load import load_speech_llm
from adapt.model.soft_prompt import load_soft_prompt, save_soft_prompt
from adapt.recipe.domain import Project
from adapt.text.template import LEARNED, Segment, parse
from adapt.train.common import PairedAudio, mean_loss
from adapt.train.ctc import ctc_ids, ctc_loss
from adapt.train.project import learn_from_pairs, trainable_audio_weights

TEMPLATE = "<p:play the song><speech>now <p:3>"


def logits(llm, slot) -> torch.Tensor:
    with torch.no_grad():
        return llm.forward(llm.prompt(slot)[None])


@pytest.fixture
def slot(tiny):
    return torch.randn(5, tiny.hidden, generator=torch.Generator().manual_seed(0))


def test_segments_are_tokenised_by_themselves_with_one_beginning(tiny):
    encode = tiny.tokenizer.encode
    before, after = ids_around(parse("play the <speech>song"), tiny)
    assert before == [1, *encode("play the ", add_special_tokens=False)] and after == encode(
        "song", add_special_tokens=False
    )
    # The space at the end stays in the prompt: the target begins with the sub-word that it begins with alone.
    assert tiny.target_ids("song") == [*after, 2]
    assert ids_around(parse("<speech><s>play"), tiny)[0] == []
    assert ids_around(parse("<speech><s>play"), tiny)[1][0] == 1


def test_a_chat_prompt_goes_through_the_chat_template(tiny):
    tiny.tokenizer.chat_template = (
        "{% for m in messages %}<s>song {{ m.content }} stop{% endfor %}{% if add_generation_prompt %} now{% endif %}"
    )
    encode = tiny.tokenizer.encode
    ours = with_template(tiny, "<chat>play <speech>the song")
    texts = (["<s>song ", "play "], ["the song", " stop now"])
    wanted = [[i for text in some for i in encode(text, add_special_tokens=False)] for some in texts]
    assert [ours.before, ours.after] == wanted
    prompt = LearnedPrompt(tiny, "<chat>play <speech>the song", "residual")  # what the user says is learned
    assert [len(prompt.rows(tiny)[i]) for i in (0, 1)] == [len(w) for w in wanted]
    assert len(prompt._learned_vectors(prompt._segments.index(Segment(LEARNED, "play ")), tiny)) == 2
    tiny.tokenizer.chat_template = "{{ messages[0].content }}{{ messages[0].content }}"
    with pytest.raises(ModelError, match="it writes what the user says 2 times; write the prompt without <chat>"):
        with_template(tiny, "<chat>play")
    tiny.tokenizer.chat_template = None
    with pytest.raises(ModelError, match="has no chat template; write the prompt without <chat>"):
        with_template(tiny, "<chat>play")


@pytest.mark.parametrize("method", ["tokens", "residual"])
def test_the_initial_prompt_equals_the_prompt_of_the_template(tiny, slot, method):
    template = "<p:play the song><speech>now"
    plain = with_template(tiny, template)
    ours = with_learned(tiny, LearnedPrompt(tiny, template, method))
    torch.testing.assert_close(logits(ours, slot), logits(plain, slot))
    assert not torch.allclose(logits(plain, slot)[:, -1], logits(tiny, slot)[:, -1], atol=1e-3)


def test_a_token_with_id_0_starts_as_its_embedding(tiny):
    table = tiny.model.get_input_embeddings().weight
    unknown = LearnedPrompt(tiny, "<p:<unk\\>><speech>", "tokens")
    assert torch.equal(unknown.vectors["0"], table[:1])


@pytest.mark.parametrize("method", ["tokens", "mlp", "residual"])
def test_learning_lowers_the_loss_and_a_saved_prompt_gives_the_same_logits(tiny, noise, slot, method, tmp_path):
    texts = ["play the song", "stop the music now", "tell me what it is"] * 2
    pairs = PairedAudio([tiny.target_ids(t) for t in texts], tiny.audio_embeddings(noise) * 2)
    torch.manual_seed(0)
    prompt = LearnedPrompt(tiny, TEMPLATE, method, init="stats", examples=pairs.embeddings)
    before = mean_loss(with_learned(tiny, prompt), pairs.embeddings, pairs.targets)
    untouched = {name: p.detach().clone() for name, p in tiny.model.named_parameters()}
    common = {"folder": tmp_path / "work", "out": tmp_path / "prompt.safetensors", "seed": 1, "precision": "fp32"}
    settings = Project(steps=20, batch_size=3, learning_rate=0.01, eval_every=5)
    learn_from_pairs(tiny, prompt, pairs, pairs, settings, **common)
    assert mean_loss(with_learned(tiny, prompt), pairs.embeddings, pairs.targets) < before - 0.1
    assert all(torch.equal(p, untouched[name]) for name, p in tiny.model.named_parameters())
    again = learning.load_learned_prompt(tmp_path / "prompt.safetensors", tiny)
    ours, theirs = (with_learned(tiny, p) for p in (prompt, again))
    assert torch.equal(logits(ours, slot), logits(theirs, slot))
    assert generate(ours, [ours.prompt(slot)], 2, 5) == generate(theirs, [theirs.prompt(slot)], 2, 5)
    plain = load_soft_prompt(tmp_path / "prompt.safetensors", tiny)  # as a soft prompt
    count = len(tiny.tokenizer.encode("play the song", add_special_tokens=False)) + 3
    assert plain.shape == (count, tiny.hidden)
    torch.testing.assert_close(plain[:-3], prompt.rows(tiny)[0][1:].detach())
    other = "<p:stop the music><speech><p:3>"
    if method == "tokens":
        with pytest.raises(ModelError, match="only a projector takes another template"):
            learning.load_learned_prompt(tmp_path / "prompt.safetensors", tiny, other)
    else:
        assert (
            logits(
                with_learned(
                    tiny,
                    learning.load_learned_prompt(tmp_path / "prompt.safetensors", tiny, "<p:stop it><speech>now <p:3>"),
                ),
                slot,
            )
            .isfinite()
            .all()
        )


def test_templates_with_nothing_to_learn_and_other_files_are_errors(tiny, tmp_path):
    with pytest.raises(ModelError, match="has nothing to learn by 'tokens'"):
        LearnedPrompt(tiny, "play <speech>", "tokens")
    with pytest.raises(ModelError, match="has nothing to learn by 'mlp'"):
        LearnedPrompt(tiny, "<speech>", "mlp")
    save_soft_prompt(tmp_path / "soft.safetensors", torch.ones(2, tiny.hidden))
    with pytest.raises(ModelError, match="a soft prompt alone"):
        learning.load_learned_prompt(tmp_path / "soft.safetensors", tiny)
    with pytest.raises(ModelError, match="cannot be read"):
        learning.load_learned_prompt(tmp_path / "none.safetensors", tiny)
    LearnedPrompt(tiny, "<p:play><speech>", "mlp", size=8).save(tmp_path / "it.safetensors", tiny)
    assert "soft_prompt" in load_file(tmp_path / "it.safetensors")


@pytest.mark.parametrize("parts", [["projector"], ["encoder", "projector"], ["llm"], ["encoder", "projector", "llm"]])
def test_the_trained_parts_change_and_nothing_else(tiny, noise, parts, tmp_path):
    texts = ["play the song", "stop the music now", "tell me what it is"] * 2
    pairs = PairedAudio([tiny.target_ids(t) for t in texts], tiny.audio_embeddings(noise) * 2, noise * 2)
    before = {name: p.detach().clone() for name, p in tiny.model.named_parameters()}
    torch.manual_seed(0)
    prompt = LearnedPrompt(tiny, TEMPLATE, "residual", init="stats", examples=pairs.embeddings)
    common = {"folder": tmp_path / "work", "out": tmp_path / "model", "seed": 1, "precision": "fp32", "parts": parts}
    settings = Project(steps=10, batch_size=3, learning_rate=0.01, eval_every=5, weights_rate=0.01)
    tuned = learn_from_pairs(tiny, prompt, pairs, pairs, settings, **common)
    assert tuned.best_step
    of = {"encoder.": "encoder", "projector.": "projector", "language_model.": "llm"}
    changed = {
        part
        for name, p in tiny.model.named_parameters()
        for prefix, part in of.items()
        if name.startswith(prefix) and not torch.equal(p, before[name])
    }
    assert changed == set(parts)
    again = load_speech_llm(str(tmp_path / "model"), "cpu")  # with the prompt beside its weights
    ours = with_learned(tiny, prompt)
    a, b = (logits(m, m.audio_embeddings(noise[:1])[0]) for m in (ours, again))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_the_ctc_head_is_trained_with_its_encoder(tiny, noise, tmp_path):
    texts = ["play", "stop", "tell"]
    letters = [ctc_ids(text, tiny.model.config.alphabet) for text in texts]
    pairs = PairedAudio([tiny.target_ids(t) for t in texts], samples=noise, letters=letters)

    def loss() -> float:
        with torch.no_grad():
            frames, counts = tiny.frames(noise)
            return float(ctc_loss(tiny.model.encoder.ctc(frames), counts, letters, len(tiny.model.config.alphabet)))

    before = loss()
    common = {"folder": tmp_path / "work", "out": tmp_path / "model", "seed": 1, "precision": "fp32"}
    settings = Project(steps=30, batch_size=3, learning_rate=0.01, eval_every=10, weights_rate=3e-3)
    learn_from_pairs(tiny, None, pairs, pairs, settings, parts=["encoder", "projector"], **common)
    assert loss() < before - 0.3


def test_a_kill_during_training_of_the_model_changes_nothing(tiny, noise, tmp_path):
    texts = ["play the song", "stop the music now", "tell me what it is"]
    pairs = PairedAudio([tiny.target_ids(t) for t in texts], samples=noise)
    settings = Project(steps=4, batch_size=2, learning_rate=0.01, eval_every=1, weights_rate=0.01)
    common = {"seed": 1, "precision": "fp32", "parts": ["encoder", "projector", "llm"], "rank": 2}

    class Killed(Exception):
        pass

    def trained(name: str, killed_at: int | None = None) -> dict:
        llm = load_speech_llm(tiny.name, "cpu")
        torch.manual_seed(0)
        prompt = LearnedPrompt(llm, TEMPLATE, "residual", init="random")
        forward, calls = llm.frames, iter(range(10**6))

        def frames(samples):
            if killed_at is not None and torch.is_grad_enabled() and next(calls) == killed_at:
                raise Killed
            return forward(samples)

        llm.frames = frames
        places = {"folder": tmp_path / name, "out": tmp_path / f"{name}-model"}
        learn_from_pairs(llm, prompt, pairs, pairs, settings, **places, **common)
        return load_file(tmp_path / f"{name}-model/model.safetensors")

    whole = trained("whole")
    with pytest.raises(Killed):
        trained("twice", killed_at=5)
    again = trained("twice")
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_models_that_cannot_be_trained_or_saved_are_errors_before_training(tiny, tmp_path):
    half = load_speech_llm(tiny.name, "cpu", dtype="bf16")
    with pytest.raises(ModelError, match=r"is in float32, and was loaded in torch.bfloat16"):
        trainable_audio_weights(half, ["llm"])
    tiny.model.to(torch.bfloat16).save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    trainable_audio_weights(load_speech_llm(str(tmp_path), "cpu"), ["encoder", "projector", "llm"])
    trainable_audio_weights(load_speech_llm(str(tmp_path), "cpu", dtype="bf16"), ["llm"])
    with pytest.raises(
        ModelError, match=r"projector: torch.bfloat16 is too coarse to train; load the model with dtype: fp32"
    ):
        trainable_audio_weights(load_speech_llm(str(tmp_path), "cpu", dtype="bf16"), ["projector"])


def test_a_chat_template_that_loses_the_users_text_is_an_error(tiny, monkeypatch):
    for around in (("<s>", "now"), ("<s>", "now adaptbefore"), ("<s>adaptbefore", "adaptbehind adaptbehind")):
        monkeypatch.setattr(type(tiny), "chat", lambda self, *texts, around=around: around)
        with pytest.raises(ModelError, match="does not keep what the user says"):
            with_template(tiny, "<chat>play <speech>the song")


def test_the_prompt_with_the_best_development_loss_is_kept(tiny, noise, tmp_path):
    slots = tiny.audio_embeddings(noise)
    train = PairedAudio([tiny.target_ids(t) for t in ("play the song", "stop the music now", "tell me")], slots)
    dev = PairedAudio([tiny.target_ids(t) for t in ("zzz qqq", "xx jj xx", "vv kk")], slots)
    torch.manual_seed(0)
    prompt = LearnedPrompt(tiny, TEMPLATE, "tokens", init="stats", examples=slots)
    common = {"folder": tmp_path / "work", "out": tmp_path / "prompt.safetensors", "seed": 1, "precision": "fp32"}
    settings = Project(steps=30, batch_size=3, learning_rate=2.0, eval_every=3)
    tuned = learn_from_pairs(tiny, prompt, train, dev, settings, **common)
    losses = {row["step"]: row["dev_loss"] for row in tuned.log if "dev_loss" in row}
    assert tuned.best_step != 30 and losses[tuned.best_step] < losses[30]
    kept = mean_loss(with_learned(tiny, prompt), dev.embeddings, dev.targets)
    assert kept == pytest.approx(losses[tuned.best_step], rel=1e-4)
