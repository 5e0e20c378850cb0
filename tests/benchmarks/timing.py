"""Seconds of work, and seconds and memory of commands."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ADAPT = Path(sys.executable).with_name("adapt")
MUSIC = Path(__file__).parents[2] / "recipes/music"

# A process begins with the peak memory of the one that started it, so that a small one starts the command.
_STARTER = """
import json, os, sys, time
null = os.open(os.devnull, os.O_RDWR)
start = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)])
_, status, usage = os.wait4(child, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9]))
"""


@dataclass(frozen=True)
class Cost:
    """What a command took. gigabytes: peak memory (RSS) of its process, or of the largest of its processes."""

    seconds: float
    gigabytes: float


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(*works: Callable[[], object], repetitions: int) -> list[float]:
    """Median seconds of each, measured in turn."""
    rounds = [[seconds(work) for work in works] for _ in range(repetitions)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def cost(*command: object, environment: Mapping[str, str] | None = None) -> Cost:
    """Seconds and peak memory of a command. environment: variables besides those of this process; None: none.

    Raises RuntimeError with the end of what it wrote to standard error if the command fails.
    """
    done = subprocess.run(
        [sys.executable, "-I", "-c", _STARTER, *map(str, command)],
        env=os.environ | dict(environment or {}),
        capture_output=True,
        text=True,
    )
    code, taken, gigabytes = json.loads(done.stdout)
    if code:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {code}: {done.stderr[-1000:]}")
    return Cost(taken, gigabytes)
