"""`adapt base` from end to end, on speech of tones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from adapt.model.bases import ASSETS
from adapt.train import fit as fitting

from ..session import launched


def overrides(*values: str) -> list[str]:
    return [part for value in values for part in ("-s", value)]


def test_a_recipe_becomes_a_speech_llm(adapt, folder, tmp_path):
    out = tmp_path / "out"
    done = adapt("base", folder, "-o", out, "-s", "align.explicit=letters")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["set", "utterances", "ctc", "llm"], "the table has both systems"
    assert [line.split()[0:3] for line in lines[1:4]] == [
        ["test", "20", lines[1].split()[2]],
        *(["language", name, count] for name, count in (("x", "16"), ("y", "4"))),
    ], "the table has all utterances, and those of each language"
    assert lines[4].startswith("mean over languages: ctc"), "the table has the mean over languages"
    assert "monotonicity" in lines[5] and "letters" in lines[5], "the table has the monotonicity of the alignment"
    assert len(list((out / "heard").iterdir())) == 2, "both systems hear two batches, once"
    assert len(list((out / "alignment").glob("*.png"))) >= 6 and (out / "report.html").exists(), "pictures and report"
    metrics = json.loads(adapt("base", folder, "-o", out, "-s", "align.explicit=letters", "--json").stdout)
    assert {row["system"] for row in metrics["rows"]} == {"ctc", "llm"} and set(metrics["means"]) == {"ctc", "llm"}
    assert set(metrics["monotonicity"]) <= {"tokens", "letters"}
    transcribed = adapt("transcribe", folder / "0.wav", "--base", out / "model", "--num-beams", "1")
    assert transcribed.exit_code == 0 and transcribed.stdout.startswith(str(folder / "0.wav")), "the model transcribes"


def test_a_stage_is_repeated_where_its_settings_or_recordings_change(adapt, folder, tmp_path):
    out = tmp_path / "out"
    assert adapt("base", "align", folder, "-o", out).exit_code == 0
    again = adapt("base", "align", folder, "-o", out, "-s", "align.explicit=letters", "-s", "align.stack=3")
    assert again.exit_code == 0 and again.stderr.count("as before") == 2, "encoder and read stay"
    assert 'align.explicit changed: "none" -> "letters"' in again.stderr, "align says why it is repeated"
    reread = adapt("base", "read", folder, "-o", out, "-s", "align.prompt=<speech>")
    assert reread.stderr.count("as before") == 1 and "read" in reread.stderr and "prompt changed" in reread.stderr
    soundfile.write(folder / "0.wav", np.zeros(22_050), 22_050)  # another recording with the same name
    anew = adapt("base", "encoder", folder, "-o", out)
    assert anew.exit_code == 0 and "recordings changed" in anew.stderr


def test_encoder_and_decoder_of_another_run_stay_as_they_are(adapt, folder, tmp_path):
    out = tmp_path / "out"
    assert adapt("base", "align", folder, "-o", out).exit_code == 0
    parts = overrides(f"encoder.start={out}/encoder", "encoder.steps=0", f"llm.start={out}/llm", "llm.lm_steps=0")
    parts += overrides("llm.read_steps=0", "align.decoder=frozen", "align.projector=conv")
    other = adapt("base", "align", folder, "-o", tmp_path / "other", *parts)
    assert other.exit_code == 0, other.output
    one, two = (load_file(place / "model/model.safetensors") for place in (out, tmp_path / "other"))
    assert all(torch.equal(one[k], two[k]) for k in one if k.startswith("encoder.")), "the encoder"
    first = load_file(out / "llm/model.safetensors")
    assert all(torch.equal(first[k], two[f"language_model.{k}"]) for k in first), "the decoder"


def test_the_encoder_of_the_built_in_base_can_be_the_start(adapt, folder, tmp_path):
    out = tmp_path / "run"
    done = adapt("base", "encoder", folder, "-o", out, *overrides("encoder.start=tiny", "encoder.steps=0"))
    assert done.exit_code == 0, done.output
    theirs, ours = load_file(ASSETS / "tiny/model.safetensors"), load_file(out / "encoder/model.safetensors")
    assert ours and all(torch.equal(theirs[f"encoder.{k}"].to(ours[k].dtype), ours[k]) for k in ours)


def test_the_built_in_base_can_be_the_start_of_every_part(adapt, folder, tmp_path):
    keys = ("encoder.start=tiny", "encoder.steps=0", "llm.start=tiny", "llm.lm_steps=0", "llm.read_steps=0")
    keys += ("align.stack=1", "align.projector_size=256", "align.steps=1", "align.projector_rate=1e-12")
    more = overrides(*keys, "align.decoder=frozen", "align.simulated=0")
    done = adapt("base", "align", folder, "-o", tmp_path / "same", *more)
    assert done.exit_code == 0, done.output
    theirs, ours = (load_file(place / "model.safetensors") for place in (ASSETS / "tiny", tmp_path / "same/model"))
    for name, weights in ours.items():
        assert torch.allclose(theirs[name].to(weights.dtype), weights, atol=1e-6), f"{name} is that of the start"
    done = adapt("base", "align", folder, "-o", tmp_path / "other", *more, "-s", "align.stack=2")
    assert done.exit_code == 0, done.output
    ours = load_file(tmp_path / "other/model/model.safetensors")
    wider = 2 * theirs["projector.linear1.weight"].shape[1]
    assert ours["projector.linear1.weight"].shape[1] == wider, "a projector of another shape is new"

    done = adapt("base", "align", folder, "-o", tmp_path / "read", *more, "-s", "llm.read_steps=2")
    assert done.exit_code == 0, done.output
    ours = load_file(tmp_path / "read/llm/model.safetensors")
    changed = [name for name, weights in ours.items() if not torch.equal(theirs[f"language_model.{name}"], weights)]
    assert len(changed) == len(ours), "stage read trains the whole decoder"
    losses = [row["dev_loss"] for row in json.loads((tmp_path / "read/llm/log.json").read_text()) if "dev_loss" in row]
    assert losses[0] < 3, "it reads from the start: a new decoder starts at the log of its vocabulary size, near 7"
    model = load_file(tmp_path / "read/model/model.safetensors")
    for name in (name for name in model if name.startswith("projector.")):
        start = theirs[name].to(model[name].dtype)
        assert torch.allclose(start, model[name], atol=1e-6), f"{name} is that of the start, with a trained decoder too"


def test_a_killed_alignment_resumes_and_ends_in_the_same_weights(adapt, folder, tmp_path, monkeypatch):
    assert adapt("base", "align", folder, "-o", tmp_path / "whole").exit_code == 0
    assert adapt("base", "read", folder, "-o", tmp_path / "killed").exit_code == 0
    original, steps = fitting._Progress.on_step_end, []

    def kill(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt
        return original(self, args, state, control, **kwargs)

    def count(self, args, state, control, **kwargs):
        steps.append(state.global_step)
        return original(self, args, state, control, **kwargs)

    monkeypatch.setattr(fitting._Progress, "on_step_end", kill)
    stopped = adapt("base", "align", folder, "-o", tmp_path / "killed")
    assert stopped.exit_code == 130 and "run the same command to continue" in stopped.stderr
    monkeypatch.setattr(fitting._Progress, "on_step_end", count)
    assert adapt("base", "align", folder, "-o", tmp_path / "killed").exit_code == 0
    assert steps == [5, 6, 7, 8], "it resumes from step 4"
    one, other = (load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "killed"))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one), "the same weights"


def test_an_unknown_stage_or_a_missing_test_set_is_an_error_before_any_training(adapt, folder, tmp_path):
    done = adapt("base", "allign", folder)
    assert done.exit_code == 2 and "a stage is one of encoder, read, align, test" in done.stderr
    done = adapt("base", "test", folder, "-s", "data.test=", "-o", tmp_path / "run")
    assert done.exit_code == 1 and "data.test: missing; name a manifest to score" in done.stderr


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("encoder.layer=3", "unknown key `encoder.layer`; did you mean `encoder.layers`?"),
        ("encoder.steps=0", "encoder.steps: 0 without encoder.start; give steps"),
        ("align.projector=mpl", "unknown choice 'mpl'; did you mean `mlp`?"),
        ("align.explicit=cosine", "unknown choice 'cosine'"),
        ("align.prompt=a <speech> <speech>", "column 12: a second <speech>; keep one"),
        ("data.max_seconds=0.1", "no recording of at most 0.1 s with a transcript"),
        ("encoder.start=./nowhere", "no such folder: './nowhere'"),
        ("encoder.heads=3", "encoder.heads: 3 does not divide the hidden_size 16"),
        ("encoder.subsampling=6", "encoder.subsampling: 6 is no power of two"),
        ("align.explicit=ctc", "align.units: none, but align.explicit: ctc needs units; give letters"),
        ("align.slots=units", "align.units: none, but align.slots: units needs units; give letters"),
        ("encoder.tuned_layers=2", "encoder.tuned_layers: 2, but encoder.frozen is none; write encoder.frozen: all"),
        ("encoder.first_pass=en", "encoder.first_pass: en, but align.projector is mlp; give a language and"),
        ("encoder.first_pass=en", "encoder.first_pass: without encoder.start; start from a Whisper"),
        ("encoder.first_pass=en", "but the CTC head of an encoder that transcribes is not used; write steps: 0"),
        ("align.projector=first-pass", "encoder.first_pass: none, but align.projector is first-pass; give a language"),
        ("llm.heads=16", "llm.heads: the hidden_size 16 is no even number for each of 16 heads"),
    ],
)
def test_a_fault_of_the_recipe_is_one_line(override, problem, adapt, folder, tmp_path):
    done = adapt("base", "align", folder, "-o", tmp_path / "out", "-s", override)
    assert done.exit_code == 1 and problem in done.stderr and "Traceback" not in done.output


def test_a_vocabulary_that_is_too_large_for_the_text_is_an_error_of_its_key(adapt, folder, tmp_path):
    done = adapt("base", "align", folder, "-o", tmp_path / "out", "-s", "llm.vocab_size=5000")
    assert done.exit_code == 1 and "Traceback" not in done.output
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("llm.vocab_size: ") and "5000" in line and "cannot be learned from the text" in line


def test_two_processes_build_a_base_as_one_does(adapt, folder, tmp_path):
    settings = ("precision=fp32", "encoder.running_statistics=1", "align.encoder_from=1")
    settings += ("encoder.batch_seconds=3.1", "align.batch_seconds=3.1", "llm.batch_size=5")  # uneven shares
    options = ["base", folder, "--device", "cpu", *overrides(*settings), "-o"]
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    single = adapt(*options, alone)
    assert single.exit_code == 0, single.output
    done = launched(*options, shared)
    assert done.returncode == 0, done.stderr
    for log in ("encoder/log.json", "llm/log.json", "model/log.json"):
        for row, expected in zip(*(json.loads((run / log).read_text()) for run in (shared, alone)), strict=True):
            assert row == pytest.approx(expected, abs=1e-5, rel=1e-5), log
    assert done.stdout == single.stdout
