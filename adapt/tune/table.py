"""The result of tuning as text."""

from __future__ import annotations

from collections.abc import Sequence

from adapt.run import read_json
from adapt.stages.context import Run
from adapt.stages.plan import TUNED_WEIGHTS
from adapt.tune.counts import REFUSED, DevCounts


def table(run: Run) -> str:
    """For each system its weights, its figures on the development set, and the cost at each value of each weight."""
    tuned = read_json(run.path(TUNED_WEIGHTS))
    lines = []
    for label, row in tuned["systems"].items():
        weights = "  ".join(f"{key} {value:g}" for key, value in row["weights"].items() if value)
        lines += [f"{label}: {weights}", f"  dev: {_figures(DevCounts(**row['base']), DevCounts(**row['counts']))}"]
        lines += [f"  {key:<7}{_costs(row['surface'], key)}" for key in row["surface"][0][0]]
    lines.append(
        "After each colon: the cost, WER plus EER, each as a share of its value without fusion (2: no change)."
    )
    lines.append(f"Costs of {REFUSED:,} and more: refused, because of false alarms or harm to the source domain.")
    lines += [f"{label}: left out, because all weights that were decoded are refused" for label in tuned["refused"]]
    return "\n".join(lines)


def _figures(base: DevCounts, counts: DevCounts) -> str:
    """WER, EER and false alarms without fusion and with the weights."""
    figures = f"WER {100 * base.wer:.1f} -> {100 * counts.wer:.1f}"
    if base.mentions:
        figures += f", EER {100 * base.eer:.1f} -> {100 * counts.eer:.1f}"
        figures += f", false alarms {base.alarms} -> {counts.alarms}"
    if base.source_words:
        figures += f"; source: WER {100 * base.source_wer:.1f} -> {100 * counts.source_wer:.1f}"
        figures += f", false alarms {base.source_alarms} -> {counts.source_alarms}" if base.mentions else ""
    return figures


def _costs(surface: Sequence[tuple[dict[str, float], float]], key: str) -> str:
    """The lowest cost at each value of one weight, over all values of the others."""
    best: dict[float, float] = {}
    for weights, cost in surface:
        best[weights[key]] = min(cost, best.get(weights[key], cost))
    return "  ".join(f"{value:g}: {cost:.3f}" for value, cost in sorted(best.items()))
