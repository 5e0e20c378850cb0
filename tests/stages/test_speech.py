"""Stage `speech`: sentences that a command of the user speaks."""

from __future__ import annotations

import json
import sys

import pytest

from adapt.model import load

from ..cli.conftest import overrides
from ..session import adapt

# Writes a tone as long as the sentence, and counts its calls.
SPEAKER = """
import sys, wave
text = sys.stdin.read().strip()
if text == "{refused}":
    sys.exit("cannot say that")
with open("{calls}", "a") as calls:
    calls.write(text + "\\n")
with wave.open(sys.argv[1], "wb") as out:
    out.setnchannels(1), out.setsampwidth(2), out.setframerate(22050)
    out.writeframes(bytes((i * i) % 251 for i in range(22050 * len(text) // 10)))
"""


@pytest.fixture
def speaker(tmp_path):
    """Returns the command of a speaker that refuses a sentence, and the file of its calls."""

    def command(refused=""):
        script, calls = tmp_path / "speaker.py", tmp_path / "calls.txt"
        script.write_text(SPEAKER.replace("{calls}", str(calls)).replace("{refused}", refused))
        return f"'{sys.executable}' '{script}' {{out}}", calls

    return command


def call(recipe, out, command, spoken=4, *more):
    settings = ["decoder.pseudo_audio=speech", f"decoder.speak={command}", f"decoder.spoken={spoken}"]
    return adapt("decoder", recipe, "-o", out, *overrides(*settings, *more, "decoder.steps=2", "decoder.eval_every=1"))


def test_each_sentence_is_spoken_once_and_trained_on(recipe, tmp_path, speaker):
    command, calls = speaker()
    done = call(recipe, tmp_path / "run", command)
    assert done.exit_code == 0, done.output
    sentences = json.loads((tmp_path / "run/speech/sentences.json").read_text())
    said = {*sentences["train"], *sentences["dev"]}
    assert len(sentences["train"]) == 4 and sorted(calls.read_text().splitlines()) == sorted(said)
    assert (tmp_path / "run/adapter/adapter_model.safetensors").exists()
    more = call(recipe, tmp_path / "run", command, spoken=6)
    assert more.exit_code == 0 and "decoder.spoken changed: 4 -> 6" in more.stderr, more.output
    assert len(calls.read_text().splitlines()) == len(said) + 2, "those that are there are kept"
    next((tmp_path / "run/speech").glob("*.wav")).write_bytes((recipe / "0.wav").read_bytes())
    changed = call(recipe, tmp_path / "run", command, spoken=6)
    assert "redone: stage speech was redone" in changed.stderr, "other audio trains another decoder"


def test_sentences_longer_than_the_base_takes_are_left_out(recipe, tmp_path, speaker, monkeypatch):
    command, _ = speaker()
    limit, loaded = 0.9, load.load_speech_llm  # seconds: eighteen letters of the tone

    def limited(*args, **kwargs):
        speech_llm = loaded(*args, **kwargs)
        speech_llm.max_seconds = limit
        return speech_llm

    monkeypatch.setattr(load, "load_speech_llm", limited)
    done = call(recipe, tmp_path / "run", command, spoken=40)
    assert done.exit_code == 0 and "sentences take more than the 0.9 s of the base, and are left out" in done.stderr, (
        done.output
    )
    limit = 0.1
    none = call(recipe, tmp_path / "none", command, 4, "data.source_replay=", "data.source_dev=")
    assert none.exit_code == 1 and "write shorter sentences" in none.stderr, none.output


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("speak-nothing {out}", "No such file or directory: 'speak-nothing'"),
        ("false {out}", "exit status 1 for"),
        ("true {out}", "it wrote no file"),
        ("espeak-ng -w out.wav", "names no command of a speech synthesiser with the word {out}"),
        ("", "names no command"),
        ("piper -m joe's.onnx -f {out}", "cannot be divided into words: no closing quotation"),
        ("printf '\\351' {out}", "exit status 0 for"),
    ],
)
def test_a_command_that_fails_is_one_line(recipe, tmp_path, command, problem):
    failed = call(recipe, tmp_path / "run", command)
    assert failed.exit_code == 1 and problem in failed.stderr and "Traceback" not in failed.stderr, failed.output


def test_after_a_failure_the_sentences_that_were_spoken_are_kept(recipe, tmp_path, speaker):
    text = (recipe / "text.txt").read_text().splitlines()
    command, calls = speaker(text[0])
    failed = call(recipe, tmp_path / "run", command, spoken=1000)
    assert failed.exit_code == 1 and "cannot say that" in failed.stderr, failed.output
    first = calls.read_text().splitlines() if calls.exists() else []
    done = call(recipe, tmp_path / "run", speaker()[0], spoken=1000)
    assert done.exit_code == 0, done.output
    again = calls.read_text().splitlines()[len(first) :]
    assert not {*first} & {*again} and text[0] in again
