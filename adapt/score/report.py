"""Scores on disk, and report.html: one page without script of a run's scores, what changed, and how it trained."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import jinja2
import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from adapt.score.score import Scores
from adapt.score.wer import align
from adapt.text.corpus import Utterance, read_hypotheses
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
_MORE = {"CER": "cer", "B-WER": "b_wer", "U-WER": "u_wer", "precision": "precision", "recall": "recall", "F1": "f1"}
_NAMES = {"loss": "training loss", "dev_loss": "development loss", "guard_loss": "guard loss (source)"}


def save_scores(
    folder: Path,
    scores: Scores,
    sets: Mapping[str, Sequence[Utterance]],
    curves: Mapping[str, Sequence[Mapping[str, float]]] | None = None,
    recipe_yaml: str = "",
) -> None:
    """Write `scores/metrics.json`, `scores/errors.tsv`, `scores/table.md` and `report.html` into a folder.

    Its `hyps/` must hold the hypotheses (`hypotheses_path`); the references are written beside them. `curves` holds
    points `{"step", "loss", "dev_loss"?, "guard_loss"?}` by stage; None or an empty stage: no figure.
    """
    for name, utterances in sets.items():
        save_hypotheses(folder, name, None, {u.id: u.text for u in utterances})
    metrics = scores.to_json() | {"curves": curves or {}, "recipe": recipe_yaml}
    _write(folder / "scores/metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    _write(folder / "scores/errors.tsv", scores.errors_tsv())
    _write(folder / "scores/table.md", scores.markdown())
    _write(folder / "report.html", report(folder))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def save_hypotheses(folder: Path, name: str, system: str | None, texts: Mapping[str, str]) -> None:
    """Write the texts of a system for a set, by id, where `hypotheses_path` says."""
    lines = (json.dumps({"id": key, "text": text}, ensure_ascii=False) for key, text in texts.items())
    _write(hypotheses_path(folder, name, system), "".join(line + "\n" for line in lines))


def hypotheses_path(folder: Path, name: str, system: str | None = None) -> Path:
    """Where a folder has the hypotheses of a system for a set; None: the references of the set.

    >>> hypotheses_path(Path("runs/music"), "target", "base").as_posix()
    'runs/music/hyps/target.base.jsonl'
    """
    parts = [quote(part, safe=" +") for part in (name, system) if part is not None]
    return folder / "hyps" / f"{'.'.join(parts)}.jsonl"


def report(folder: Path) -> str:
    """The page of one run, from its `scores/metrics.json` and `hyps/` alone.

    Examples, gains and confusions are of the first set, its last system against its first.
    """
    metrics = json.loads((folder / "scores/metrics.json").read_text(encoding="utf-8"))
    rows, signature = metrics["rows"], metrics["signature"]
    signed = dict(part.split(":", 1) for part in signature.split("|") if ":" in part)
    first = rows[0]["set"]
    systems = [row["system"] for row in rows if row["set"] == first]
    shown = list(dict.fromkeys((systems[0], systems[-1])))
    # The folder of this file is the template's: no package loader, so that it works from a checkout, too.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = lambda value: "n/a" if value is None else f"{100 * value:.1f}"

    def of_last(listed: Sequence[Mapping]) -> list[Mapping]:
        return [one for one in listed if (one["set"], one["system"]) == (first, systems[-1])]

    with mpl.rc_context(_STYLE):
        return environment.get_template("report.html.jinja").render(
            rows=rows,
            signature=signature,
            sentences=metrics["sentences"],
            resamples=int(signed.get("bs", 0)),
            types=sorted({name for row in rows for name in row["by_type"]}),
            split=any(row["eer_seen"] is not None for row in rows),
            alarms=any(row["false_alarms_per_1k"] is not None for row in rows),
            more={label: key for label, key in _MORE.items() if any(row[key] is not None for row in rows)},
            scatter=_scatter(rows),
            first=first,
            systems=shown,
            changes=_changes(of_last(metrics["changes"])),
            confusions=of_last(metrics["errors"])[: 2 * SHOWN],
            examples=_examples(folder, first, shown, signed.get("norm", "basic")),
            curves=[(stage, _curve(stage, points)) for stage, points in metrics["curves"].items() if points],
            recipe=metrics["recipe"].strip(),
        )


def _changes(changes: Sequence[Mapping]) -> list[dict]:
    """By type, the entities that are gained and lost, those with the greatest net change first."""
    found = []
    for kind in sorted({change["type"] for change in changes}):
        of_type = [change for change in changes if change["type"] == kind]
        row: dict = {"type": kind}
        for way, other in (("gained", "lost"), ("lost", "gained")):
            row[way] = sum(change[way] for change in of_type)
            ordered = sorted(of_type, key=lambda c: (c[other] - c[way], c["entity"]))
            row[f"{way}_names"] = [c["entity"] for c in ordered if c[way] > c[other]][:SHOWN]
        found.append(row)
    return found


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
        named = row["system"] if len(sets) == 1 else f"{row['set']}: {row['system']}"
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
            label=named if not named.startswith("_") else f" {named}",  # or the legend leaves it out
        )
    axes.set(xlabel="WER, %", ylabel="EER, %")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2 if max(map(len, labels)) < 30 else 1)
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


def _examples(folder: Path, name: str, shown: Sequence[str], normaliser: str) -> dict | None:
    """The utterances where the last system gains and loses most errors on the first."""
    normalise = NORMALISERS[normaliser]
    references = read_hypotheses(hypotheses_path(folder, name))
    texts = {system: read_hypotheses(hypotheses_path(folder, name, system)) for system in shown}
    found = []
    for key, said in references.items():
        if any(key not in heard for heard in texts.values()):
            continue  # scored leniently
        ref = normalise(said).split()
        lines = [_line(ref, normalise(texts[system][key]).split()) for system in shown]
        errors = [sum(max(len(a), len(b)) for kind, a, b in line if kind != "equal") for line in lines]
        # With one system only, its own errors take the place of the change.
        change = errors[-1] - errors[0] if len(errors) > 1 else errors[0]
        found.append((change, errors[-1], key, ref, errors, lines))
    found.sort(key=lambda one: one[:3])
    listed = [
        {
            "id": key,
            "ref": " ".join(ref),
            "lines": [
                {"system": system, "errors": count, "words": line}
                for system, count, line in zip(shown, errors, lines, strict=True)
            ],
        }
        for _, _, key, ref, errors, lines in found[:SHOWN] + found[SHOWN:][-SHOWN:]
    ]
    half = min(SHOWN, (len(found) + 1) // 2)
    return {"best": listed[:half], "worst": listed[half:][::-1][:SHOWN]}


def _line(ref: list[str], hyp: list[str]) -> list[tuple[str, list[str], list[str]]]:
    """Runs of (kind, words said, words heard)."""
    return [(op.kind, ref[op.ref_start : op.ref_end], hyp[op.hyp_start : op.hyp_end]) for op in align(ref, hyp)]
