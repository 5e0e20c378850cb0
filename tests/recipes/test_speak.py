"""The speaker of manifests: what it hands to the engines, and which utterances it speaks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner


@pytest.mark.parametrize(
    ("text", "by_espeak", "by_flite"),
    [
        ("play a c d c next", "play eh c d c next", "play A.C.D.C. next"),
        ("am i a fan of r e m", "am i a fan of r e m", "am i a fan of r e m"),
        ("isn't a nurse late", "isn't a nurse late", "isn't a nurse late"),
        ("the y m c a", "the y m c eh", "the Y.M.C.A."),
    ],
)
def test_a_is_read_as_a_letter_among_letters(makers, text, by_espeak, by_flite):
    as_read = makers["speak"].as_read
    assert as_read(text, "espeak-ng") == as_read(text, "piper") == as_read(text, "kokoro") == by_espeak
    assert as_read(text, "flite") == by_flite


def test_audio_is_made_only_where_it_is_missing_and_in_the_voice_of_its_row(makers, tmp_path, monkeypatch):
    spoken = []

    def synthesise(*asked):
        spoken.append(asked)
        return np.full(16_000, 0.1, dtype=np.float32)

    monkeypatch.setattr(makers["speak"], "synthesise", synthesise)
    rows = [{"id": i, "audio": f"audio/{i}.ogg", "text": f"say {i}", "voice": "flite slt"} for i in "ab"]
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio/a.ogg").touch()
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert CliRunner().invoke(makers["speak"].main, [str(tmp_path / "x.jsonl")]).exit_code == 0
    assert spoken == [("say b", "flite slt", "b")]
    assert soundfile.info(tmp_path / "audio/b.ogg").subtype == "OPUS"


def test_a_neural_voice_without_its_files_is_an_error(makers, tmp_path):
    row = {"id": "a", "audio": "a.ogg", "text": "", "voice": "piper en_US-joe"}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    result = CliRunner().invoke(makers["speak"].main, [str(tmp_path / "x.jsonl")])
    assert result.exit_code == 2 and "x.jsonl: a has a neural voice; name their folder by --voices" in result.output
