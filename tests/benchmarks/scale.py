"""How time and memory grow with the text: `adapt check`, the stage `text`, a training of one step, and `adapt lm`.

Sentences of 4 to 10 words, drawn by Zipf's law from 20,000. Start-up is what the command takes for START lines: it is
subtracted, and START from the lines as well, so that the exponent of linear growth is 1. Exponents are those of a
straight line through the logarithms of the last three sizes, and of the last two.
"""

from __future__ import annotations

import itertools
import math
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from timing import ADAPT, Cost, cost

VOCABULARY = 20_000
START = 100  # lines
OFTEN = 10_000  # up to this number of lines, a figure is the median of three
RECIPE = """base: tiny
data: {text: text.txt, dev_lines: 10}
decoder: {steps: 1}
"""


def sentences(count: int) -> list[str]:
    """Random sentences; a smaller count gives the first of a larger one."""
    import numpy as np

    syllables = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]
    spelled = itertools.chain.from_iterable(itertools.product(syllables, repeat=n) for n in (1, 2, 3))
    words = ["".join(word) for word in itertools.islice(spelled, VOCABULARY)]
    share = 1 / np.arange(1, VOCABULARY + 1)
    rng = np.random.default_rng(1)
    lengths = rng.integers(4, 11, count).tolist()
    drawn = iter(rng.choice(VOCABULARY, sum(lengths), p=share / share.sum()).tolist())
    return [" ".join(words[i] for i in itertools.islice(drawn, length)) for length in lengths]


def exponent(sizes: Sequence[int], figures: Sequence[float], last: int) -> float | None:
    """The growth exponent over the last sizes, beyond the figures of the first one.

    Sizes that take no more than the first are left out; None if fewer than two remain.
    """
    import numpy as np

    points = [(n - sizes[0], y - figures[0]) for n, y in zip(sizes, figures, strict=True)][1:][-last:]
    points = [(math.log(n), math.log(y)) for n, y in points if y > 0]
    return float(np.polyfit(*zip(*points, strict=True), 1)[0]) if len(points) > 1 else None


def _row(name: str, sizes: Sequence[int], costs: Sequence[Cost]) -> dict:
    taken, held = [cost.seconds for cost in costs], [cost.gigabytes for cost in costs]
    row = {"name": f"growth_{name}", "lines": list(sizes), "seconds": taken, "exponent": exponent(sizes, taken, 3)}
    row["last_exponent"] = exponent(sizes, taken, 2)
    if not math.isnan(held[0]):
        row |= {"gigabytes": held, "memory_exponent": exponent(sizes, held, 3)}
        row["last_memory_exponent"] = exponent(sizes, held, 2)
    return row


def _costs(recipe: Path, run: Path) -> dict[str, Cost]:
    """What each command takes. The stage `text` is part of `run`; `lm` finds it done."""
    from adapt.run import read_stages

    costs = {"check": cost(ADAPT, "check", recipe)}
    costs["run"] = cost(ADAPT, "run", recipe, "--device", "cpu", "-o", run)
    costs["run_text"] = Cost(read_stages(run / "run.json")["text"]["seconds"], math.nan)
    costs["lm"] = cost(ADAPT, "lm", recipe, "-o", run)
    shutil.rmtree(run)
    return costs


def growth(largest: int = 1_000_000) -> list[dict]:
    """A row for each command, over START, 1,000, 10,000 and so on to `largest` lines."""
    sizes = [START, *itertools.takewhile(lambda n: n <= largest, (10**power for power in itertools.count(3)))]
    lines = sentences(largest)
    found: list[dict[str, Cost]] = []
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe"
        recipe.mkdir()
        (recipe / "recipe.yaml").write_text(RECIPE)
        for size in sizes:
            (recipe / "text.txt").write_text("\n".join(lines[:size]) + "\n")
            again = [_costs(recipe, Path(folder) / "run") for _ in range(3 if size <= OFTEN else 1)]
            found.append({name: _median([costs[name] for costs in again]) for name in again[0]})
    return [_row(name, sizes, [costs[name] for costs in found]) for name in found[0]]


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(*(statistics.median(getattr(cost, key) for cost in costs) for key in ("seconds", "gigabytes")))
