"""Figures of report.html: inline SVG without script, in colours that follow the page's light and dark mode."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

# matplotlib draws in placeholder colours, which are then replaced by the page's own CSS variables.
_INK, _LINE = "#010203", "#020304"
_SERIES = [f"#0{i}0a0b" for i in range(1, 7)]
_COLOURS = {_INK: "var(--ink)", _LINE: "var(--line)"} | {c: f"var(--s{i})" for i, c in enumerate(_SERIES, 1)}
_STYLE = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), _INK),
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), _LINE),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **{"axes.grid": True, "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 11},
}
_MARKERS = "osD^vP"
_LOSSES = {"loss": "training loss", "dev_loss": "development loss", "guard_loss": "guard loss (source)"}


def wer_against_eer(rows: Sequence[Mapping]) -> Markup | None:
    """A plot of WER against EER of the rows of metrics.json that have both, with intervals; None without such rows."""
    points = [row for row in rows if row["wer"] is not None and row["eer"] is not None]
    if not points:
        return None
    systems = list(dict.fromkeys(row["system"] for row in points))
    sets = list(dict.fromkeys(row["set"] for row in points))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for row in points:
            colour = _SERIES[systems.index(row["system"]) % len(_SERIES)]
            label = row["system"] if len(sets) == 1 else f"{row['set']}: {row['system']}"
            axes.errorbar(
                100 * row["wer"],
                100 * row["eer"],
                xerr=_error_bar(row, "wer"),
                yerr=_error_bar(row, "eer"),
                color=colour,
                capsize=3,
                markersize=7,
                marker=_MARKERS[systems.index(row["system"]) % len(_MARKERS)],
                markerfacecolor=colour if row["set"] == sets[0] else "none",
                linestyle="none",
                label=label if not label.startswith("_") else f" {label}",  # matplotlib leaves out labels with a "_"
            )
        axes.set(xlabel="WER, %", ylabel="EER, %")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2 if max(map(len, labels)) < 30 else 1)
        return _svg(figure, "scatter", "WER against EER of each system, with 95 % intervals")


def _error_bar(row: Mapping, key: str) -> list[list[float]]:
    """The lengths of the interval below and above a figure (`wer` or `eer`), in percent points, as matplotlib wants."""
    low, high = row[f"{key}_ci"] or (row[key], row[key])
    # A percentile interval need not contain its figure; matplotlib takes no negative lengths.
    return [[100 * max(0.0, row[key] - low)], [100 * max(0.0, high - row[key])]]


def loss_curve(stage: str, points: Sequence[Mapping[str, float]]) -> Markup:
    """A plot of the losses of a training stage over the steps. points: `{"step", "loss"?, "dev_loss"?, ...}`."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for (key, label), colour in zip(_LOSSES.items(), _SERIES, strict=False):
            losses = [(point["step"], point[key]) for point in points if point.get(key) is not None]
            if losses:
                marker = "o" if len(losses) < 30 else ""  # markers show few measurements, but blur many
                axes.plot(*zip(*losses, strict=True), color=colour, label=label, marker=marker)
        axes.set(xlabel="step", ylabel="loss")
        axes.legend()
        safe = re.sub(r"\W+", "-", stage)
        return _svg(figure, f"curve-{safe}", f"Loss by training step, stage {safe}")


def _svg(figure: Figure, name: str, label: str) -> Markup:
    """The figure as inline SVG in the page's colours. name: prefix of its ids. label: for screen readers."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for placeholder, colour in _COLOURS.items():
        svg = svg.replace(placeholder, colour)
    # A page has several figures, whose ids must differ.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[^"]*pt"', "", svg, count=2)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))
