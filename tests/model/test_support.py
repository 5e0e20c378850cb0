"""The support table follows from the rows of FAMILIES, and `adapt ls models` prints it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import transformers
from click.testing import CliRunner
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import model_type_to_module_name

from adapt.cli import main
from adapt.model.families import FAMILIES, OWN_TYPE, Family
from adapt.model.support import Support, refusal, table
from adapt.model.unsupported import UNSUPPORTED

README = Path(__file__).parents[2] / "README.md"
TAKES_AUDIO = re.compile(r'input_modalities[^=\n]*=\s*(?:"audio"|\([^)]*"audio")')
TASKS = re.compile(r"MODEL_FOR_(MULTIMODAL|CTC|RNNT|TDT|SPEECH|SEQ_TO_SEQ|AUDIO|TEXT_TO_(WAVEFORM|SPECTROGRAM))")


def types_with_audio() -> set[str]:
    """Model types that an Auto class maps to a task, and whose code names audio among its inputs."""
    mapped = {
        kind for name, models in vars(modeling_auto).items() if TASKS.match(name) and hasattr(models, "keys")
        for kind in models if isinstance(kind, str)
    }  # fmt: skip
    models = Path(transformers.__file__).parent / "models"
    kinds = set()
    for kind in mapped:
        code = models / model_type_to_module_name(kind)
        if any(TAKES_AUDIO.search(file.read_text(encoding="utf-8")) for file in code.glob("modeling_*.py")):
            kinds.add(kind)
    return kinds


@pytest.mark.skipif(not transformers.__version__.startswith("5.23."), reason="the table is that of transformers 5.23")
def test_every_model_type_that_takes_audio_is_in_the_table():
    known = {row.model_type for row in table()}
    assert len(types_with_audio()) > 50
    assert types_with_audio() - known == set()


def test_the_table_follows_from_the_rows_of_the_families(monkeypatch):
    rows = [row for row in table() if row.supported]
    assert [row.model_type for row in rows] == [OWN_TYPE, *FAMILIES]
    for row in rows[1:]:
        family = FAMILIES[row.model_type]
        assert (row.cls, row.tested, row.needs) == (family.cls, family.tested, family.needs)
    monkeypatch.setitem(FAMILIES, "new_type", Family("NewClass", needs="newpackage", tested=False))
    assert Support("new_type", "NewClass", True, "", False, "newpackage") in table(), "a new row is a row of the table"
    monkeypatch.setitem(FAMILIES, "voxtral", replace(FAMILIES["voxtral"], needs=""))
    assert next(row.needs for row in table() if row.model_type == "voxtral") == "", "a changed row changes the table"


def test_classes_exist_and_no_model_type_is_both_supported_and_not():
    for row in table()[1:]:
        assert hasattr(transformers, row.cls), row
    refused = {kind for kinds in UNSUPPORTED.values() for kind in kinds}
    assert not refused & {*FAMILIES, OWN_TYPE}
    assert all(refusal(kind) for kind in refused) and not any(refusal(kind) for kind in (*FAMILIES, "llama"))


def test_ls_models_prints_the_table():
    printed = CliRunner().invoke(main, ["ls", "models"]).stdout
    for row in table():
        (line,) = [line for line in printed.splitlines() if line.split()[0] == row.model_type]
        assert row.cls in line and row.needs in line
        assert (row.why in line) if not row.supported else ("yes" in line)


def test_the_readme_says_how_many_model_types_can_be_a_base():
    count = sum(row.supported for row in table())
    assert f"{count} model types" in README.read_text(encoding="utf-8")
