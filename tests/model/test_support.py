"""The table of supported models knows every model type of transformers that hears, and the README has the table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import model_type_to_module_name

from adapt.model.support import OURS, REFUSED, SUPPORTED, table

from .families import FAMILIES

README = Path(__file__).parents[2] / "README.md"
HEARS = re.compile(r'input_modalities[^=\n]*=\s*(?:"audio"|\([^)]*"audio")')
TASKS = re.compile(r"MODEL_FOR_(MULTIMODAL|CTC|RNNT|TDT|SPEECH|SEQ_TO_SEQ|AUDIO|TEXT_TO_(WAVEFORM|SPECTROGRAM))")


def hearing() -> set[str]:
    """Model types that an Auto class maps to a task, and whose code names audio among its inputs."""
    mapped = {
        kind for name, models in vars(modeling_auto).items() if TASKS.match(name) and hasattr(models, "keys")
        for kind in models if isinstance(kind, str)
    }  # fmt: skip
    models = Path(transformers.__file__).parent / "models"
    found = set()
    for kind in mapped:
        code = models / model_type_to_module_name(kind)
        if any(HEARS.search(file.read_text(encoding="utf-8")) for file in code.glob("modeling_*.py")):
            found.add(kind)
    return found


@pytest.mark.skipif(not transformers.__version__.startswith("5.23."), reason="the table is that of transformers 5.23")
def test_every_model_type_that_hears_is_in_the_table():
    known = {row.model_type for row in table()}
    assert len(hearing()) > 50
    assert hearing() - known == set()


def test_what_the_table_says_is_so():
    assert set(FAMILIES) == {row.model_type for row in table() if row.tested} - {OURS} | {"voxtral_realtime"}
    for row in table()[1:]:
        assert hasattr(transformers, row.cls), row
    assert not set(SUPPORTED) & {kind for kinds in REFUSED.values() for kind in kinds}


def written() -> str:
    """The table as the README has it."""
    lines = ["| model type | class | tested | its processor needs |", "|---|---|---|---|"]
    for row in table():
        if row.supported:
            lines.append(f"| `{row.model_type}` | {row.cls} | {'yes' if row.tested else 'no'} | {row.needs} |")
    lines += ["", "| not supported, for it is | |", "|---|---|"]
    for why, kinds in REFUSED.items():
        lines.append(f"| {why} | {', '.join(f'`{kind}`' for kind in sorted(kinds))} |")
    return "\n".join(lines)


def test_the_readme_has_the_table():
    assert written() in README.read_text(encoding="utf-8"), f"put this into README.md:\n{written()}"
