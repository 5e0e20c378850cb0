"""What tests of recipes share: the makers in recipes/, which import each other by their names."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="session")
def makers():
    """The modules domain, generate and speak of recipes/, in a dictionary."""
    names = ("domain", "generate", "speak")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPES))
        for name in names:  # recipes/multilingual has a generate.py too
            patch.delitem(sys.modules, name, raising=False)
        loaded = {name: importlib.import_module(name) for name in names}
        for name in names:
            sys.modules.pop(name)
    return loaded
