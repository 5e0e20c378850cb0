"""report.html: one page without script: a run's scores, what changed in the text, and how it trained."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from adapt.score.wer import align
from adapt.text.corpus import Utterance
from adapt.text.normalise import NORMALISERS

SHOWN = 10

# Drawn in stand-in colours, which then become the page's own, so that figures follow light and dark.
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
_NAMES = {"loss": "training loss", "dev_loss": "development loss", "guard_loss": "guard loss (source)"}


def write_report(
    path: str | Path,
    metrics: dict,
    sets: Mapping[str, Sequence[Utterance]],
    hyps: Mapping[str, Mapping[str, Mapping[str, str]]],
    curves: Mapping[str, Sequence[Mapping[str, float]]] | None = None,
    recipe_yaml: str = "",
) -> None:
    """Write the page of one run.

    `metrics` is `Scores.to_json()`, `sets` and `hyps` what was scored. Examples compare the first set's base
    with its last system. `curves` holds points `{"step", "loss", "dev_loss"?, "guard_loss"?}` by stage; None
    or an empty stage: no figure.
    """
    signed = dict(part.split(":", 1) for part in metrics["signature"].split("|") if ":" in part)
    examples = _examples(next(iter(sets.items()), None), hyps, signed.get("norm", "basic"))
    # The folder of this file is the template's: no package loader, so that it works from a checkout, too.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = lambda value: "n/a" if value is None else f"{100 * value:.1f}"
    with mpl.rc_context(_STYLE):
        page = environment.get_template("report.html.jinja").render(
            rows=metrics["rows"],
            signature=metrics["signature"],
            resamples=int(signed.get("bs", 0)),
            types=sorted({name for row in metrics["rows"] for name in row["by_type"]}),
            scatter=_scatter(metrics["rows"]),
            examples=examples,
            curves=[(stage, _curve(stage, points)) for stage, points in (curves or {}).items() if points],
            recipe=recipe_yaml.strip(),
        )
    Path(path).write_text(page, encoding="utf-8")


def _svg(figure: Figure, name: str, label: str) -> Markup:
    """The figure as inline SVG in the page's colours; `label` is what a screen reader says."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for stand_in, colour in _COLOURS.items():
        svg = svg.replace(stand_in, colour)
    # Several figures share a page, and ids must not meet there.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[^"]*pt"', "", svg, count=2)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))


def _scatter(rows: Sequence[Mapping]) -> Markup | None:
    """WER against EER of every system that has both, with intervals; None if there is none."""
    points = [row for row in rows if row["wer"] is not None and row["eer"] is not None]
    if not points:
        return None
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    systems = list(dict.fromkeys(row["system"] for row in points))
    sets = list(dict.fromkeys(row["set"] for row in points))
    for row in points:
        spans = []
        for key in ("wer", "eer"):
            low, high = row[f"{key}_ci"] or (row[key], row[key])
            # A percentile interval need not hold its figure; an error bar must.
            spans.append([[100 * max(0.0, row[key] - low)], [100 * max(0.0, high - row[key])]])
        colour = _SERIES[systems.index(row["system"]) % len(_SERIES)]
        axes.errorbar(
            100 * row["wer"],
            100 * row["eer"],
            xerr=spans[0],
            yerr=spans[1],
            color=colour,
            capsize=3,
            markersize=7,
            marker=_MARKERS[systems.index(row["system"]) % len(_MARKERS)],
            markerfacecolor=colour if row["set"] == sets[0] else "none",
            linestyle="none",
            label=row["system"] if len(sets) == 1 else f"{row['set']}: {row['system']}",
        )
    axes.set(xlabel="WER, %", ylabel="EER, %")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return _svg(figure, "scatter", "WER against EER of each system, with 95 % intervals")


def _curve(stage: str, points: Sequence[Mapping[str, float]]) -> Markup:
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for (key, name), colour in zip(_NAMES.items(), _SERIES, strict=False):
        known = [(point["step"], point[key]) for point in points if point.get(key) is not None]
        if known:
            # Few points are measurements to be seen one by one, many are a line.
            marker = "o" if len(known) < 30 else ""
            axes.plot(*zip(*known, strict=True), color=colour, label=name, marker=marker)
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    safe = re.sub(r"\W+", "-", stage)
    return _svg(figure, f"curve-{safe}", f"Loss by training step, stage {safe}")


def _examples(
    first: tuple[str, Sequence[Utterance]] | None,
    hyps: Mapping[str, Mapping[str, Mapping[str, str]]],
    normaliser: str,
) -> dict | None:
    """The utterances where the last system gains and loses most errors on base; None without hypotheses."""
    if not first or not hyps.get(first[0]):
        return None
    normalise = NORMALISERS[normaliser]
    systems = hyps[first[0]]
    shown = list(dict.fromkeys((next(iter(systems)), list(systems)[-1])))
    found = []
    for utterance in first[1]:
        ref = normalise(utterance.text).split()
        lines = [_line(ref, normalise(systems[system][utterance.id]).split()) for system in shown]
        errors = [sum(max(len(a), len(b)) for kind, a, b in line if kind != "equal") for line in lines]
        found.append(
            {
                "id": utterance.id,
                "ref": " ".join(ref),
                "lines": [
                    {"system": system, "errors": count, "words": line}
                    for system, count, line in zip(shown, errors, lines, strict=True)
                ],
                # With one system only, its own errors take the place of the change.
                "change": errors[-1] - errors[0] if len(errors) > 1 else errors[0],
                "left": errors[-1],
            }
        )
    found.sort(key=lambda one: (one["change"], one["left"], one["id"]))
    half = min(SHOWN, (len(found) + 1) // 2)
    return {"set": first[0], "systems": shown, "best": found[:half], "worst": found[half:][::-1][:SHOWN]}


def _line(ref: list[str], hyp: list[str]) -> list[tuple[str, list[str], list[str]]]:
    """Runs of (kind, words said, words heard)."""
    return [(op.kind, ref[op.ref_start : op.ref_end], hyp[op.hyp_start : op.hyp_end]) for op in align(ref, hyp)]
