"""Broken files end in a result or an error of one line, whichever reader gets them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from . import fuzz


@pytest.mark.slow
@pytest.mark.parametrize("name", fuzz.READERS)
def test_broken_files_are_read_or_refused(name):
    command = [sys.executable, "-W", "ignore", fuzz.__file__, "100000", name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
