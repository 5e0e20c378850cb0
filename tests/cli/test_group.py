"""The commands as a whole: help, usage, and one line for each mistake."""

from __future__ import annotations

import pytest

from adapt.cli import main

from ..model.families import BUILDERS
from ..session import adapt


def test_every_command_has_help():
    for name, command in main.commands.items():
        result = adapt(name, "--help")
        assert result.exit_code == 0 and command.help
        options = [p for p in command.params if p.param_type_name == "option"]
        assert [p.name for p in options if not p.help] == []


WRONG = {
    "a typo in the recipe": ("recipe.yaml", lambda s: s.replace("steps: 4", "stesp: 4", 1), "did you mean"),
    "a missing text file": ("recipe.yaml", lambda s: s.replace("text.txt", "texts.txt"), "did you mean"),
    "an empty text file": ("text.txt", lambda s: "", "text.txt"),
    "a missing audio file": ("test.jsonl", lambda s: s.replace("0.wav", "9.wav"), "9.wav"),
    "an unreadable wav": ("0.wav", lambda s: "not audio", "not readable as audio"),
    "a wav of nothing": ("0.wav", lambda s: "RIFF", "not readable as audio"),
    "a broken manifest": ("test.jsonl", lambda s: s.replace('"id"', '"di"', 1), "test.jsonl:1"),
    "a missing base": ("recipe.yaml", lambda s: s.replace("base: ", "base: tinny # "), "tinny"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_gives_one_line_and_exit_code_1(recipe, tmp_path, mistake):
    name, change, told = WRONG[mistake]
    path = recipe / name
    path.write_text(change("" if name.endswith("wav") else path.read_text()))
    result = adapt("run", recipe, "-o", tmp_path / "run")
    message = [line for line in result.stderr.splitlines() if told in line]
    assert result.exit_code == 1 and len(message) == 1, result.output
    assert "Traceback" not in result.stderr and result.stdout == ""
    assert ";" in message[0]


def test_help_and_usage(tmp_path):
    assert adapt("rnu").exit_code == 2
    assert adapt("transcribe", tmp_path / "absent.wav").exit_code == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    result = adapt("check", empty)
    assert result.exit_code == 1 and "no such recipe" in result.stderr


def test_mistakes_with_bases_adapters_and_devices(tiny, recipe, tmp_path):
    audio, base = recipe / "0.wav", ("--base", tiny.name)

    def told(*arguments):
        result = adapt(*arguments)
        assert result.exit_code in (1, 2) and "Traceback" not in result.output, result.output
        return result.stderr

    assert "unknown 'cdua'" in told("transcribe", audio, *base, "--device", "cdua")
    assert "is not available" in told("transcribe", audio, *base, "--device", "cuda:99")
    assert "not for models built by `adapt base`" in told("transcribe", audio, *base, "--quantise", "4-bit")
    assert "have one name" in told("transcribe", audio, *base, "--adapter", "a=x", "--adapter", "a=y")
    assert "has no name" in told("transcribe", audio, *base, "--adapter", "x", "--adapter", "a=y")
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    assert "cannot be read" in told("transcribe", audio, *base, "--prompt", tmp_path / "bad.safetensors")
    assert "cannot be read" in told("prompt", recipe, "-s", f"prompt.start={tmp_path / 'bad.safetensors'}")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text("{")
    assert "cannot be read" in told("check", "--base", tmp_path / "broken")
    assert "nothing to check" in told("check")
    BUILDERS["qwen2_audio"](tmp_path / "qwen")
    assert "no encoder with a CTC head" in told("transcribe", audio, "--base", tmp_path / "qwen", "--decoder", "ctc")
    assert "no such file" in told("import", tmp_path / "model.pt", "--encoder", "x", "--llm", "y", "-o", tmp_path / "z")
    assert "has no adapter" in told("export", tmp_path)
