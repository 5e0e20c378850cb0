"""Every tested row of FAMILIES has a builder of a tiny model, and the table is read without torch."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

from adapt.model.families import FAMILIES, OWN_FAMILY, family_of

from .families import BUILDERS


def test_every_tested_family_has_a_builder_and_every_builder_a_row():
    tested = {kind for kind, family in FAMILIES.items() if family.tested}
    assert not tested - BUILDERS.keys(), "rows without a builder in tests/model/families.py"
    assert not BUILDERS.keys() - tested, "builders without a tested row in adapt/model/families.py"


def test_a_model_type_has_its_own_row_and_our_models_have_theirs():
    assert family_of(SimpleNamespace(model_type="voxtral")) is FAMILIES["voxtral"]
    assert family_of(SimpleNamespace(model_type="adapt_composed")) is OWN_FAMILY


def test_the_tables_import_neither_torch_nor_transformers():
    program = "import sys, adapt.model.support; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
