import random
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file

from adapt.errors import ModelError
from adapt.model import adapter
from adapt.model.load import load_speech_llm
from adapt.train import decoder as decoding
from adapt.train import fit as fitting
from adapt.train.common import Replay, mean_loss
from adapt.train.decoder import tune_decoder
from adapt.train.pseudo_audio import PSEUDO_AUDIO, Source, slots
from adapt.train.soft_prompt import learn_prompt

TEXT = [
    "play the song",
    "stop the music now",
    "what is it",
    "louder please",
    "play it again",
    "tell me what",
] * 3
PROMPT = {
    "length": 5,
    "init": "audio",
    "steps": 12,
    "batch_size": 4,
    "learning_rate": 0.05,
    "eval_every": 4,
    "seed": 1,
    "precision": "auto",
}
DECODER = {
    "name": "test",
    "pseudo_audio": "soft-prompt+simulate",
    "noise": 0.1,
    "steps": 12,
    "batch_size": 6,
    "learning_rate": 0.01,
    "warmup_steps": 2,
    "rank": 4,
    "alpha": 8,
    "dropout": 0.1,
    "replay": 0.34,
    "anchor": 0.5,
    "activations": "kept",
    "eval_every": 4,
    "patience": 10,
    "guard_tolerance": 10.0,
    "seed": 1,
    "precision": "auto",
}


def tune(tiny, noise, folder, **changes):
    heard = Replay(tiny.audio_embeddings(noise), [tiny.target_ids(t) for t in TEXT[:3]])
    prompt = torch.cat(list(heard.slots))[:5].clone()
    more = {
        "soft_prompt": prompt,
        "inventory": None,
        "replayed": heard,
        "guard": heard,
        "folder": folder,
        "out": folder / "adapter",
    }
    return tune_decoder(tiny, TEXT[:12], TEXT[12:], **{**DECODER, **more, **changes})


def test_prompt_lowers_the_loss_and_leaves_the_model_alone(tiny, noise, tmp_path):
    before = {k: v.clone() for k, v in tiny.model.state_dict().items()}
    examples = tiny.audio_embeddings(noise)
    out = tmp_path / "soft_prompt.safetensors"
    tuned = learn_prompt(tiny, TEXT[:12], TEXT[12:], examples=examples, folder=tmp_path / "ckpt", out=out, **PROMPT)
    assert all(torch.equal(v, before[k]) for k, v in tiny.model.state_dict().items())
    rows = [row for row in tuned.log if "dev_loss" in row]
    vectors = load_file(out)["soft_prompt"]
    targets = [tiny.target_ids(t) for t in TEXT[12:]]
    best = min(row["dev_loss"] for row in rows)
    assert best < rows[0]["dev_loss"]
    assert mean_loss(tiny, [vectors] * len(targets), targets) == pytest.approx(best, abs=1e-6)


def test_interrupted_decoder_ends_in_the_same_weights(tiny, noise, tmp_path, monkeypatch):
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
    assert (tmp_path / "killed/checkpoint-4").exists()
    torch.manual_seed(99)
    steps = []

    def count(self, args, state, control, **kwargs):
        steps.append(state.global_step)
        return original(self, args, state, control, **kwargs)

    monkeypatch.setattr(fitting._Progress, "on_step_end", count)
    tune(load_speech_llm(path, "cpu"), noise, tmp_path / "killed")
    assert steps == list(range(5, 13))  # from the checkpoint, not from the start
    one, other = (load_file(tmp_path / n / "adapter/adapter_model.safetensors") for n in ("whole", "killed"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert any(v.abs().max() > 0 for k, v in one.items() if "lora_B" in k)


def test_a_kill_in_the_midst_of_a_checkpoint_or_behind_the_end(tmp_path):
    class Killed(Exception):
        pass

    def train(folder, kill=None, patience=None):
        model, steps = torch.nn.Linear(2, 1, bias=False), []
        torch.nn.init.ones_(model.weight)

        def loss_of(model, batch):
            steps.append(batch["step"])
            if batch["step"] == kill:
                raise Killed
            return model(torch.ones(2) / (1 + batch["step"])).sum()

        stop = (lambda log: sum("seen" in row for row in log) > patience) if patience else (lambda log: False)
        log = fitting.fit(
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

    whole, *_ = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "cut", kill=5)
    half = tmp_path / "cut/checkpoint-6"  # a save of which only the weights were written
    shutil.copytree(tmp_path / "cut/checkpoint-4", half)
    (half / "trainer_state.json").unlink()
    weights, steps, _ = train(tmp_path / "cut")
    assert steps == [4, 5, 6, 7] and torch.equal(weights, whole)

    _, steps, ended = train(tmp_path / "early", patience=2)
    assert steps == [0, 1, 2, 3]
    assert train(tmp_path / "early", patience=2)[1:] == ([], ended)


def test_what_the_base_says_may_be_kept_or_computed_anew(tiny, noise, tmp_path, monkeypatch):
    path, exact = tiny.name, {"precision": "fp32"}
    tune(tiny, noise, tmp_path / "kept", **exact)
    monkeypatch.setattr(decoding, "KEPT", 0)
    tune(load_speech_llm(path, "cpu"), noise, tmp_path / "anew", **exact)
    tune(load_speech_llm(path, "cpu"), noise, tmp_path / "free", anchor=0.0, **exact)
    kept, anew, free = (load_file(tmp_path / n / "adapter/adapter_model.safetensors") for n in ("kept", "anew", "free"))
    torch.testing.assert_close(kept, anew, rtol=1e-3, atol=1e-5)
    assert any((kept[k] - free[k]).abs().max() > 1e-3 for k in kept)


def test_plain_peft_reproduces_our_logits_exactly(tiny, noise, tmp_path):
    path = tiny.name
    base = load_speech_llm(path, "cpu")
    tune(tiny, noise, tmp_path)
    embeds = tiny.prompt(tiny.audio_embeddings(noise)[0])[None]
    with torch.no_grad():
        ours = tiny.model(inputs_embeds=embeds).logits
        untouched = base.model(inputs_embeds=embeds).logits
        plain = peft.PeftModel.from_pretrained(base.model, tmp_path / "adapter").eval()(inputs_embeds=embeds).logits
        attached = adapter.attach(load_speech_llm(path, "cpu"), tmp_path / "adapter").model(inputs_embeds=embeds).logits
    assert torch.equal(ours, plain) and torch.equal(ours, attached)
    assert not torch.allclose(ours, untouched, atol=1e-3)


def test_recomputed_activations_change_nothing(tiny, noise, tmp_path):
    path, kept = tiny.name, tmp_path / "kept"
    tune(tiny, noise, kept, dropout=0.0)
    tune(load_speech_llm(path, "cpu"), noise, tmp_path / "again", dropout=0.0, activations="recomputed")
    weights = [load_file(folder / "adapter" / adapter.WEIGHTS) for folder in (kept, tmp_path / "again")]
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], atol=1e-5, rtol=1e-4)


def test_lora_stays_inside_the_decoder(tiny):
    model = adapter.add_lora(tiny, rank=2, alpha=4, dropout=0.0)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 7 * 2  # layers, projections, A and B
    assert all(".language_model." in name for name in trained)


def test_an_adapter_of_another_base_is_refused(tiny, noise, tmp_path):
    path = tiny.name
    tune(tiny, noise, tmp_path, steps=2)
    weights = load_file(tmp_path / "adapter/adapter_model.safetensors")
    from safetensors.torch import save_file

    save_file(
        {k.replace("layers.1", "layers.7"): v for k, v in weights.items()},
        tmp_path / "adapter" / adapter.WEIGHTS,
    )
    with pytest.raises(ModelError, match="no place"):
        adapter.attach(load_speech_llm(path, "cpu"), tmp_path / "adapter")
    with pytest.raises(ModelError, match="no adapter_model"):
        adapter.attach(load_speech_llm(path, "cpu"), tmp_path)


def test_a_guard_that_cannot_be_held_keeps_the_base(tiny, noise, tmp_path):
    heard = tiny.audio_embeddings(noise)
    with torch.no_grad():  # what the base says first: any other text makes it less likely
        said = [tiny.model(inputs_embeds=tiny.prompt(s)[None]).logits[0, -1].argmax().item() for s in heard]
    guard = Replay(heard, [[token] for token in said])
    tuned = tune(tiny, noise, tmp_path, guard=guard, guard_tolerance=0.0, replay=0.0, learning_rate=0.1)
    assert tuned.best_step == 0
    assert min(row.get("dev_loss", 9) for row in tuned.log) < tuned.log[0]["dev_loss"]
    weights = load_file(tmp_path / "adapter" / adapter.WEIGHTS)
    assert all(v.abs().max() == 0 for k, v in weights.items() if "lora_B" in k)


def test_what_stands_in_the_slot(tiny):
    soft = torch.ones(5, 32)
    source = Source(tiny, soft, noise=0.0)
    lengths = {kind: slots(kind, source, ["play it"], random.Random(0))[0] for kind in PSEUDO_AUDIO}
    assert lengths["none"] is None and len(lengths["empty"]) == 0 and len(lengths["soft-prompt"]) == 5
    assert len(lengths["simulate"]) >= len("play it")
    assert len(lengths["soft-prompt+simulate"]) >= 5 + len("play it")
    assert len(tiny.prompt(None)) == 1 and len(tiny.prompt(lengths["empty"])) == 2
