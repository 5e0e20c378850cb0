"""A run on a disk that becomes full says so in a line, and continues when there is room."""

from __future__ import annotations

import subprocess

import pytest

from .session import adapt


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, and a function that sets its size in KiB; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}k", folder], check=True)

    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    except OSError:
        pytest.skip("no `mount` here")
    if mounted.returncode:
        pytest.skip("no right to mount a file system")
    yield folder, resize
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_one_line_and_the_run_continues(recipe, disk):
    folder, resize = disk
    for size in (64, 256, 700):
        resize(size)
        result = adapt("decoder", recipe, "-o", folder / "run")
        assert result.exit_code == 1, f"{size} KiB: {result.output}"
        assert "no space is left on the disk; make room, and run" in result.output.splitlines()[-1], size
        assert "Traceback" not in result.output
    resize(100_000)
    result = adapt("decoder", recipe, "-o", folder / "run")
    assert result.exit_code == 0, result.output
