from __future__ import annotations

import dataclasses

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from adapt.errors import ModelError
from adapt.model import adapter
from adapt.model.load import load_speech_llm
from adapt.model.packing import target_logits
from adapt.recipe.domain import Decoder
from adapt.train import decoder as decoding
from adapt.train import fit as fitting
from adapt.train.common import PairedAudio
from adapt.train.decoder import tune_decoder
from adapt.train.pseudo_audio import PseudoAudioInputs

TEXT = ["play the song", "stop the music now", "what is it", "louder please", "play it again", "tell me what"] * 3
SETTINGS = Decoder(
    pseudo_audio="soft-prompt+simulate",
    noise=0.1,
    steps=12,
    batch_size=6,
    learning_rate=0.01,
    warmup_steps=2,
    rank=4,
    alpha=8,
    dropout=0.1,
    replay=0.34,
    anchor=0.5,
    eval_every=4,
    patience=10,
    guard_tolerance=10.0,
)


def tune(speech_llm, noise, folder, *, guard=None, precision="auto", lists=None, **changes):
    """Tune with SETTINGS, changed; the recordings of noise are replayed, and the guard unless another is given."""
    paired = PairedAudio([speech_llm.target_ids(t) for t in TEXT[:3]], speech_llm.audio_embeddings(noise))
    return tune_decoder(
        speech_llm,
        TEXT[:12],
        TEXT[12:],
        dataclasses.replace(SETTINGS, **changes),
        soft_prompt=torch.cat(list(paired.embeddings))[:5].clone(),
        inventory=None,
        spoken={},
        lists=lists,
        replayed=paired,
        guard=guard or paired,
        folder=folder,
        out=folder / "adapter",
        name="test",
        seed=1,
        precision=precision,
    )


def test_the_replayed_audio_tells_how_many_slots_a_token_has(tiny, noise, tmp_path, monkeypatch):
    slots = {}

    def filled(kind, inputs, texts, rng):
        found = fill_slots(kind, inputs, texts, rng)
        slots.update(zip(texts, found, strict=True))
        return found

    fill_slots = decoding.fill_slots
    monkeypatch.setattr(decoding, "fill_slots", filled)
    audio, said = tiny.audio_embeddings(noise), sum(len(tiny.target_ids(t)) - 1 for t in TEXT[:3])
    expected = sum(map(len, audio)) / said
    assert expected != pytest.approx(PseudoAudioInputs.slots_per_token, rel=0.2), "another than without audio"
    tune(tiny, noise, tmp_path, pseudo_audio="upsample-mask", steps=3)
    tokens = sum(len(tiny.target_ids(text)) - 1 for text in slots)
    assert sum(map(len, slots.values())) / tokens == pytest.approx(expected, rel=0.2)


def weights_in(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / adapter.WEIGHTS)


def test_a_killed_training_resumes_and_ends_in_the_same_weights(tiny, noise, tmp_path, monkeypatch):
    path = tiny.name
    tune(tiny, noise, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(self, args, state, control, **kwargs):
        if state.global_step == 7:
            raise Killed
        return original(self, args, state, control, **kwargs)

    original = fitting._Progress.on_step_end
    monkeypatch.setattr(fitting._Progress, "on_step_end", kill)
    with pytest.raises(Killed):
        tune(load_speech_llm(path, "cpu"), noise, tmp_path / "killed")
    monkeypatch.undo()
    assert (tmp_path / "killed/checkpoint-4").exists(), "the killed training has left a checkpoint"
    torch.manual_seed(99)
    steps = []

    def count(self, args, state, control, **kwargs):
        steps.append(state.global_step)
        return original(self, args, state, control, **kwargs)

    monkeypatch.setattr(fitting._Progress, "on_step_end", count)
    tune(load_speech_llm(path, "cpu"), noise, tmp_path / "killed")
    assert steps == list(range(5, 13)), "it resumes from the checkpoint, not from the start"
    whole, killed = weights_in(tmp_path / "whole"), weights_in(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[k], killed[k]) for k in whole), "the weights are the same"
    assert any(v.abs().max() > 0 for k, v in whole.items() if "lora_B" in k), "the LoRA was trained"


def test_cached_and_recomputed_logits_of_the_base_give_the_same_anchor(tiny, noise, tmp_path, monkeypatch):
    path, exact = tiny.name, {"precision": "fp32"}
    tune(tiny, noise, tmp_path / "cached", **exact)
    monkeypatch.setattr(decoding, "CACHED_BYTES", 0)
    tune(load_speech_llm(path, "cpu"), noise, tmp_path / "recomputed", **exact)
    tune(load_speech_llm(path, "cpu"), noise, tmp_path / "free", anchor=0.0, **exact)
    cached, recomputed, free = (weights_in(tmp_path / name) for name in ("cached", "recomputed", "free"))
    torch.testing.assert_close(cached, recomputed, rtol=1e-3, atol=1e-5)
    assert any((cached[k] - free[k]).abs().max() > 1e-3 for k in cached), "the anchor changes the weights"


def test_plain_peft_reproduces_the_tuned_logits_exactly(tiny, noise, tmp_path):
    path = tiny.name
    base = load_speech_llm(path, "cpu")
    tune(tiny, noise, tmp_path)
    embeds = tiny.prompt(tiny.audio_embeddings(noise)[0])[None]
    with torch.no_grad():
        tuned = tiny.model(inputs_embeds=embeds).logits
        untuned = base.model(inputs_embeds=embeds).logits
        plain = peft.PeftModel.from_pretrained(base.model, tmp_path / "adapter").eval()(inputs_embeds=embeds).logits
        attached = adapter.attach(load_speech_llm(path, "cpu"), tmp_path / "adapter").model(inputs_embeds=embeds).logits
    assert torch.equal(tuned, plain), "loaded by PEFT alone"
    assert torch.equal(tuned, attached), "loaded by adapter.attach"
    assert not torch.allclose(tuned, untuned, atol=1e-3), "tuning changes the logits"


def test_recomputed_activations_change_nothing(tiny, noise, tmp_path):
    path = tiny.name
    tune(tiny, noise, tmp_path / "kept", dropout=0.0)
    tune(load_speech_llm(path, "cpu"), noise, tmp_path / "recomputed", dropout=0.0, activations="recomputed")
    kept, recomputed = weights_in(tmp_path / "kept"), weights_in(tmp_path / "recomputed")
    torch.testing.assert_close(kept, recomputed, atol=1e-5, rtol=1e-4)


def test_lora_stays_inside_the_decoder(tiny):
    model = adapter.add_lora(tiny, rank=2, alpha=4, dropout=0.0)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 7 * 2  # layers, projections, A and B
    assert all(".language_model." in name for name in trained)


def test_an_adapter_of_another_base_is_refused(tiny, noise, tmp_path):
    path = tiny.name
    tune(tiny, noise, tmp_path, steps=2)
    renamed = {key.replace("layers.1", "layers.7"): value for key, value in weights_in(tmp_path).items()}
    save_file(renamed, tmp_path / "adapter" / adapter.WEIGHTS)
    with pytest.raises(ModelError, match="no place"):
        adapter.attach(load_speech_llm(path, "cpu"), tmp_path / "adapter")
    with pytest.raises(ModelError, match="no adapter_model"):
        adapter.attach(load_speech_llm(path, "cpu"), tmp_path)


def test_the_base_is_kept_where_every_checkpoint_raises_the_guard_loss(tiny, noise, tmp_path):
    embeddings = tiny.audio_embeddings(noise)
    with torch.no_grad():  # the base's own first token: any other text makes it less probable
        tokens = [tiny.model(inputs_embeds=tiny.prompt(e)[None]).logits[0, -1].argmax().item() for e in embeddings]
    guard = PairedAudio([[token] for token in tokens], embeddings)
    tuned = tune(tiny, noise, tmp_path, guard=guard, guard_tolerance=0.0, replay=0.0, learning_rate=0.1)
    assert tuned.best_step == 0, "step 0 is kept"
    assert min(row.get("dev_loss", 9) for row in tuned.log) < tuned.log[0]["dev_loss"], "the development loss fell"
    weights = weights_in(tmp_path)
    assert all(v.abs().max() == 0 for k, v in weights.items() if "lora_B" in k), "the adapter changes nothing"


def test_prompts_of_sentences_list_the_names_that_are_drawn_and_those_of_replayed_audio_none(
    tiny, noise, tmp_path, monkeypatch
):
    seen = []

    def listed(speech_llm, slots, targets, names=None, **options):
        seen.extend(map(tuple, names or ()))
        return target_logits(speech_llm, slots, targets, names, **options)

    monkeypatch.setattr(decoding, "target_logits", listed)
    steps, batch, replayed = 2, 6, 2
    tune(tiny, noise, tmp_path, steps=steps, eval_every=2, lists=lambda text, rng: (text.split()[0],))
    drawn = [names for names in seen if names]
    assert len(drawn) == steps * (batch - replayed) and {names[0] for names in drawn} <= {t.split()[0] for t in TEXT}
