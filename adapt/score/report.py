"""The scores of a run on disk, and report.html: one page without script with figures, examples and training curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import yaml

from adapt.score.bootstrap import SIGNIFICANT
from adapt.score.figures import loss_curve, wer_against_eer
from adapt.score.files import hypotheses_path, save_hypotheses, write
from adapt.score.results import Scores
from adapt.score.wer import align_all
from adapt.text.manifest import Utterance
from adapt.text.normalise import NORMALISERS
from adapt.text.transcripts import read_hypotheses
from adapt.text.words import joined, words_of

SHOWN = 10  # entities in a cell, and utterances in each of the two lists of examples

_MORE = {"CER": "cer", "B-WER": "b_wer", "U-WER": "u_wer", "precision": "precision", "recall": "recall", "F1": "f1"}


def save_scores(
    folder: Path,
    scores: Scores,
    sets: Mapping[str, Sequence[Utterance]],
    curves: Mapping[str, Sequence[Mapping[str, float]]] | None = None,
    recipe_yaml: str = "",
) -> None:
    """Write `scores/metrics.json`, `scores/errors.tsv`, `scores/table.md` and `report.html` into a folder.

    The folder must hold the hypotheses (`files.hypotheses_path`); the references are written beside them. curves:
    points `{"step", "loss", "dev_loss"?, "guard_loss"?}` by stage; a stage without points has no figure. recipe_yaml:
    the recipe, which the page shows and whose `name` is the title; "": the title is the name of the first set.
    """
    for name, utterances in sets.items():
        save_hypotheses(folder, name, None, {u.id: u.text for u in utterances})
    metrics = scores.to_json() | {"curves": curves or {}, "recipe": recipe_yaml}
    write(folder / "scores/metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write(folder / "scores/errors.tsv", scores.errors_tsv())
    write(folder / "scores/table.md", scores.markdown())
    write(folder / "report.html", report(folder))


def report(folder: Path) -> str:
    """The page of a run, made from its `scores/metrics.json` and `hyps/` alone."""
    metrics = json.loads((folder / "scores/metrics.json").read_text(encoding="utf-8"))
    rows, signature = metrics["rows"], metrics["signature"]
    settings = dict(part.split(":", 1) for part in signature.split("|") if ":" in part)
    first = rows[0]["set"]
    systems = [row["system"] for row in rows if row["set"] == first]
    compared = list(dict.fromkeys((systems[0], systems[-1])))

    def of_last(records: Sequence[Mapping]) -> list[Mapping]:
        return [record for record in records if (record["set"], record["system"]) == (first, systems[-1])]

    return _template().render(
        title=_name(metrics["recipe"]) or first,
        rows=rows,
        signature=signature,
        sentences=metrics["sentences"],
        significant=SIGNIFICANT,
        resamples=int(settings.get("bs", 0)),
        types=_by_type(rows),
        split=any(row["eer_seen"] is not None for row in rows),
        alarms=any(row["false_alarms_per_1k"] is not None for row in rows),
        more={label: key for label, key in _MORE.items() if any(row[key] is not None for row in rows)},
        scatter=wer_against_eer(rows),
        first=first,
        systems=compared,
        changes=_changes(of_last(metrics["changes"])),
        confusions=of_last(metrics["errors"])[: 2 * SHOWN],
        examples=_examples(folder, first, compared, settings.get("norm", "basic")),
        curves=[(stage, loss_curve(stage, points)) for stage, points in metrics["curves"].items() if points],
        recipe=metrics["recipe"].strip(),
    )


def _template() -> jinja2.Template:
    """The template of the page."""
    # From the folder of this file and not by jinja's package loader, so that it works from a checkout as well.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = lambda value: "n/a" if value is None else f"{100 * value:.1f}"
    environment.filters["joined"] = joined
    return environment.get_template("report.html.jinja")


def _name(recipe_yaml: str) -> str | None:
    """The name in a recipe; None without one."""
    recipe = yaml.safe_load(recipe_yaml)
    return recipe.get("name") if isinstance(recipe, dict) else None


def _by_type(rows: Sequence[Mapping]) -> list[dict]:
    """EER by entity type: per set with mentions, its systems and a line of figures for each type."""
    tables = []
    for name in dict.fromkeys(row["set"] for row in rows):
        of_set = [row for row in rows if row["set"] == name]
        lines = [
            {
                "type": kind,
                "mentions": of_set[0]["counts"]["by_type"][kind]["mentions"],
                "eers": [row["by_type"].get(kind) for row in of_set],
            }
            for kind in sorted(of_set[0]["by_type"])
        ]
        if lines:
            tables.append({"set": name, "systems": [row["system"] for row in of_set], "lines": lines})
    return tables


def _changes(changes: Sequence[Mapping]) -> list[dict]:
    """By type, the entities gained and lost, those with the greatest net change first."""
    rows = []
    for kind in sorted({change["type"] for change in changes}):
        of_type = [change for change in changes if change["type"] == kind]
        row: dict = {"type": kind}
        for key, opposite in (("gained", "lost"), ("lost", "gained")):
            row[key] = sum(change[key] for change in of_type)
            ordered = sorted(of_type, key=lambda c: (c[opposite] - c[key], c["entity"]))
            row[f"{key}_names"] = [c["entity"] for c in ordered if c[key] > c[opposite]][:SHOWN]
        rows.append(row)
    return rows


def _examples(folder: Path, name: str, systems: Sequence[str], normaliser: str) -> dict[str, list[dict]]:
    """The utterances of the set `name` with the greatest change in word errors from the first system to the last.

    With one system, its number of errors takes the place of the change.
    """
    normalise = NORMALISERS[normaliser]
    references = read_hypotheses(hypotheses_path(folder, name))
    hyps = {system: read_hypotheses(hypotheses_path(folder, name, system)) for system in systems}
    ids = [key for key in references if all(key in texts for texts in hyps.values())]  # fewer if scored leniently
    refs = [words_of(normalise(references[key])) for key in ids]
    lines = zip(
        *(_lines(refs, [words_of(normalise(texts[key])) for key in ids]) for texts in hyps.values()), strict=True
    )
    utterances = []
    for key, ref, of_systems in zip(ids, refs, lines, strict=True):
        errors = [
            sum(max(len(ref_run), len(hyp_run)) for kind, ref_run, hyp_run in line if kind != "equal")
            for line in of_systems
        ]
        change = errors[-1] - errors[0] if len(errors) > 1 else errors[0]
        utterances.append((change, errors[-1], key, ref, errors, of_systems))
    utterances.sort(key=lambda row: row[:3])
    examples = [
        {
            "id": key,
            "ref": joined(ref),
            "lines": [
                {"system": system, "errors": count, "words": line}
                for system, count, line in zip(systems, errors, of_systems, strict=True)
            ],
        }
        for _, _, key, ref, errors, of_systems in utterances[:SHOWN] + utterances[SHOWN:][-SHOWN:]
    ]
    half = min(SHOWN, (len(utterances) + 1) // 2)
    return {"best": examples[:half], "worst": examples[half:][::-1][:SHOWN]}


def _lines(refs: Sequence[list[str]], hyps: Sequence[list[str]]) -> list[list[tuple[str, list[str], list[str]]]]:
    """Per utterance its runs of (kind, reference words, hypothesis words)."""
    return [
        [(op.kind, ref[op.ref_start : op.ref_end], hyp[op.hyp_start : op.hyp_end]) for op in ops]
        for ref, hyp, ops in zip(refs, hyps, align_all(zip(refs, hyps, strict=True)), strict=True)
    ]
