"""The commands as a whole: help, usage, and one line for each mistake."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from adapt.cli import main

from ..model.families import BUILDERS
from ..session import adapt


@pytest.mark.parametrize("name", main.commands)
def test_every_command_and_each_of_its_options_has_help(name):
    command = main.commands[name]
    assert adapt(name, "--help").exit_code == 0 and command.help
    options = [p for p in command.params if p.param_type_name == "option"]
    assert [p.name for p in options if not p.help] == [], "options without help"


def test_the_package_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "adapt", "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = done.stdout.partition("Commands:")[2].split()
    assert set(main.commands) <= set(listed), "its help lists every command"


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
    name, change, problem = WRONG[mistake]
    path = recipe / name
    path.write_text(change("" if name.endswith("wav") else path.read_text()))
    result = adapt("run", recipe, "-o", tmp_path / "run")
    message = [line for line in result.stderr.splitlines() if problem in line]
    assert result.exit_code == 1 and len(message) == 1, result.output
    assert "Traceback" not in result.stderr and result.stdout == ""
    assert ";" in message[0], "the message has a way out"


def test_an_unknown_command_is_wrong_usage():
    assert adapt("rnu").exit_code == 2


def test_a_recording_that_does_not_exist_is_an_error(tmp_path):
    assert adapt("transcribe", tmp_path / "absent.wav").exit_code == 1


def test_a_folder_without_a_recipe_is_an_error(tmp_path):
    result = adapt("check", tmp_path)
    assert result.exit_code == 1 and "no such recipe" in result.stderr


# Words in capitals stand for paths.
MISTAKES = [
    ("transcribe AUDIO --base BASE --device cdua", "unknown 'cdua'"),
    ("transcribe AUDIO --base BASE --device cuda:99", "is not available"),
    ("transcribe AUDIO --base BASE --quantise 4-bit", "not for models built by `adapt base`"),
    ("transcribe AUDIO --base BASE --adapter a=x --adapter a=y", "have one name"),
    ("transcribe AUDIO --base BASE --adapter x --adapter a=y", "has no name"),
    ("transcribe AUDIO --base BASE --prompt NO_PROMPT", "cannot be read"),
    ("transcribe AUDIO --base WITHOUT_CTC --decoder ctc", "no encoder with a CTC head"),
    ("prompt RECIPE -s prompt.start=NO_PROMPT -o EMPTY", "cannot be read"),
    ("check --base BROKEN_BASE", "cannot be read"),
    ("check", "nothing to check"),
    ("import ABSENT --encoder x --llm y -o EMPTY", "no such file"),
    ("export EMPTY", "has no adapter"),
]


@pytest.mark.parametrize(("command", "problem"), MISTAKES)
def test_mistakes_with_bases_adapters_and_devices_are_errors(tiny, recipe, tmp_path, command, problem):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text("{")
    if "WITHOUT_CTC" in command:
        BUILDERS["qwen2_audio"](tmp_path / "qwen")
    paths = {
        "AUDIO": recipe / "0.wav",
        "BASE": tiny.name,
        "RECIPE": recipe,
        "NO_PROMPT": tmp_path / "bad.safetensors",
        "WITHOUT_CTC": tmp_path / "qwen",
        "BROKEN_BASE": tmp_path / "broken",
        "ABSENT": tmp_path / "model.pt",
        "EMPTY": tmp_path / "empty",
    }
    words = [re.sub("[A-Z_]{4,}$", lambda name: str(paths[name[0]]), word) for word in command.split()]
    result = adapt(*words)
    assert result.exit_code in (1, 2) and "Traceback" not in result.output, result.output
    assert problem in result.stderr
