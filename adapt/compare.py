"""`adapt compare`: kinds of pseudo audio, each with several seeds, on the test sets of a recipe, in one table.

The folder holds a run for each kind and seed, beside the run `base`. Each starts from the files of `base`, so that
text, n-grams and transcripts of the base are made once.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from tqdm import tqdm

from adapt import pipeline
from adapt.errors import DataError, RecipeError
from adapt.model.bases import has_ctc, transcribes
from adapt.recipe.choices import PSEUDO_AUDIO
from adapt.recipe.domain import Recipe
from adapt.recipe.schema import did_you_mean
from adapt.run import RunFolder, StageResult, read_json, read_stages, write_json
from adapt.stages import plan
from adapt.stages.context import Run
from adapt.stages.systems import System, systems

BASE = "base"
METHODS = tuple(kind for kind in PSEUDO_AUDIO if kind != "auto")
FIGURES = ("wer", "eer", "eer_seen", "eer_unseen", "false_alarms_per_1k")
HEADS = ("WER", "EER", "seen", "unseen", "alarms", "source")


@dataclass(frozen=True)
class Method:
    """A kind of pseudo audio. name: the kind, and settings of it, as in --method. recipe: that trains it."""

    name: str
    recipe: Recipe


@dataclass(frozen=True)
class Trial:
    """A system of a method and seed: the figures of FIGURES on the target set, and `source`, the WER on the source set.

    added: what the recipe adds to the model, such as "names + boost"; "" for the model as it is. seconds: of training.
    parameters: that were trained. Seed, seconds and parameters are 0 for the base.
    """

    method: str
    seed: int
    added: str
    figures: dict[str, float | None]
    seconds: float = 0.0
    parameters: int = 0


@dataclass(frozen=True)
class Comparison:
    """All trials, and by method their means and standard deviations over seeds."""

    trials: list[Trial]

    def to_json(self) -> dict:
        """`{"rows": [trial, …], "methods": [summary, …]}`."""
        return {"rows": [dataclasses.asdict(trial) for trial in self.trials], "methods": self.summaries()}

    def summaries(self) -> list[dict]:
        """A row for each method and what is added; `mean` and `deviation` by figure, None for one seed alone."""
        rows = []
        for method, added in dict.fromkeys((t.method, t.added) for t in self.trials):
            trials = [t for t in self.trials if (t.method, t.added) == (method, added)]
            row = {"method": method, "added": added, "seeds": len(trials), "figures": {}}
            for key in trials[0].figures:
                values = [t.figures[key] for t in trials if t.figures[key] is not None]
                if values:
                    deviation = statistics.stdev(values) if len(values) > 1 else None
                    row["figures"][key] = {"mean": statistics.mean(values), "deviation": deviation}
            row["seconds"] = statistics.mean(t.seconds for t in trials)
            row["parameters"] = trials[0].parameters
            rows.append(row)
        return rows

    def table(self) -> str:
        """Figures in percent, false alarms for 1,000 words; ± the standard deviation over seeds."""
        rows = self.summaries()
        names = [" + ".join(filter(None, (row["method"], row["added"]))) for row in rows]
        width = max(map(len, ("method", *names)))
        heads = "".join(f"{head:>12}" for head in HEADS)
        lines = [f"{'method':<{width}}  seeds{heads}{'seconds':>9}{'parameters':>12}"]
        for name, row in zip(names, rows, strict=True):
            cells = "".join(_cell(row["figures"].get(key), key) for key in (*FIGURES, "source"))
            of_training = f"{row['seconds']:>9,.0f}{row['parameters']:>12,}" if row["parameters"] else f"{'':>21}"
            lines.append(f"{name:<{width}}  {row['seeds']:>5}{cells}{of_training}".rstrip())
        return "\n".join(lines)


def _cell(figure: dict | None, key: str) -> str:
    """A mean and its deviation, in percent but for false alarms."""
    if figure is None:
        return f"{'n/a':>12}"
    factor = 1 if key == "false_alarms_per_1k" else 100
    spread = "" if figure["deviation"] is None else f" ±{factor * figure['deviation']:4.1f}"
    return f"{factor * figure['mean']:.1f}{spread}".rjust(12)


def read_methods(names: Sequence[str], load: Callable[[Sequence[str]], Recipe]) -> list[Method]:
    """The methods of --method: `KIND`, or `KIND,KEY=VALUE,...` with keys of the section `decoder`.

    names: empty: each kind that the base can do, `speech` only if the recipe has `decoder.speak`, and `generate` only
    if it has `data.source_replay`. load: loads the recipe with overrides. Raises RecipeError for an unknown kind, and
    as `load` does.
    """
    recipe, methods = load(()), []
    transcribing = transcribes(recipe.base)
    impossible = () if has_ctc(recipe.base) or transcribing else plan.SIMULATES
    impossible += ("generate",) if transcribing or not recipe.data.source_replay else ()
    impossible += () if recipe.decoder.speak else ("speech",)
    for name in dict.fromkeys(names or [kind for kind in METHODS if kind not in impossible]):
        kind, *settings = name.split(",")
        if kind not in METHODS:
            known = did_you_mean(kind, METHODS) or f"; write one of {', '.join(METHODS)}"
            raise RecipeError(f"--method {name}: unknown kind of pseudo audio{known}")
        recipe = load([f"decoder.pseudo_audio={kind}", *(f"decoder.{setting}" for setting in settings)])
        plan.pseudo_audio(recipe)  # raises an error for a base that cannot do this kind
        methods.append(Method(name, recipe))
    return methods


def compare(
    methods: Sequence[Method], seeds: int, out: Path, device: str, report: Callable[[StageResult, str], None]
) -> Comparison:
    """Train each method with the seeds 1 to `seeds`, and score base and adapted model (`compared`).

    Checkpoints are chosen on development text and guard set, and fusion has the weights of the recipe. Writes the runs,
    `table.json` and `comparison.png` into `out`; what is done is skipped. Raises RecipeError for a recipe that names no
    `data.test`, or whose base would be decoded with another internal LM for each training, and DataError for a folder
    with other files.
    """
    recipe = methods[0].recipe
    if not recipe.data.test:
        raise RecipeError("recipe.yaml: data.test: missing; name a manifest to compare methods on")
    if recipe.fusion.ilm and recipe.fusion.ilm_slot == "soft-prompt":
        problem = "each training learns its own soft prompt, so that the base would have several internal LMs"
        raise RecipeError(f"recipe.yaml: fusion.ilm_slot: {problem}; write empty, or leave out fusion.ilm")
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if names and BASE not in names:
        raise DataError(f"{out}: holds files that no comparison has written; choose another folder with -o")
    with RunFolder(out / BASE, seed=recipe.seed) as folder:
        shared = Run(recipe, folder, device, report, heard=out / "heard")
        pipeline.check(shared)
        pipeline.prepare(shared)
        pipeline.estimate_lms(shared)
        pipeline.transcribe(shared, [name for name, system in compared(shared).items() if system.of == BASE])
    trials: list[Trial] = []
    form = "{desc:<10} [{bar:20}] {n_fmt}/{total_fmt} trainings  {remaining} left\n"
    for method, seed in tqdm(list(itertools.product(methods, range(1, seeds + 1))), desc="compare", bar_format=form):
        found = _trials(method, seed, out, shared)
        trials += found if not trials else [trial for trial in found if trial.method != BASE]
    comparison = Comparison(trials)
    if shared.folder.ranks.is_first:
        write_json(out / "table.json", comparison.to_json())
        _plot(comparison, out / "comparison.png")
    return comparison


def compared(run: Run) -> dict[str, System]:
    """The systems by name: base and adapted model as they are, and with all that the recipe adds."""
    own = ([(name, system) for name, system in systems(run).items() if system.of == of] for of in (BASE, "adapted"))
    return {name: system for rows in own for name, system in (rows[0], rows[-1])}


def _trials(method: Method, seed: int, out: Path, shared: Run) -> list[Trial]:
    """The trials of base and adapted model of one training, which is done first unless it is there."""
    slug = re.sub(r"[^\w.+=-]", "-", method.name)
    path, ranks = out / f"{slug}-{seed}", shared.folder.ranks
    if ranks.is_first and not path.exists():
        unfinished = out / f".{path.name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        first = out / f"{slug}-1"
        shutil.copytree(
            first if first.exists() else out / BASE, unfinished, ignore=shutil.ignore_patterns(".lock", "checkpoints")
        )
        unfinished.rename(path)
    ranks.wait()
    with RunFolder(path, seed=seed) as folder:
        run = dataclasses.replace(shared, recipe=method.recipe, folder=folder)  # with the models that are loaded
        training = dataclasses.replace(run, recipe=dataclasses.replace(method.recipe, seed=seed))
        pipeline.prepare(run)
        if plan.learns_soft_prompt(run.recipe):
            pipeline.soft_prompt(training)
        if plan.pseudo_audio(run.recipe) == "generate":
            pipeline.slot_generator(run)  # once for all seeds
        pipeline.decoder(training)
        pipeline.estimate_lms(run)
        pipeline.transcribe(run, compared(run))
        pipeline.score(run, compared(run))
        rows = {(row["set"], row["system"]): row for row in read_json(run.path("scores/metrics.json"))["rows"]}
        stages = read_stages(run.path("run.json"))
        seconds = sum(stages[name]["seconds"] for name in ("prompt", "generator", "decoder") if name in stages)
        parameters = _parameters(run)
    trials = []
    for name, system in compared(run).items():
        figures = {key: rows["target", name][key] for key in FIGURES}
        figures["source"] = rows["source", name]["wer"] if ("source", name) in rows else None
        added = name.removeprefix(system.of).removeprefix(" + ")
        trial = Trial(BASE, 0, added, figures)
        if system.of == "adapted":
            trial = Trial(method.name, seed, added, figures, seconds, parameters)
        trials.append(trial)
    return trials


def _parameters(run: Run) -> int:
    """The number of trained parameters: of the adapter and, if they were learned, of soft prompt or slot generator."""
    files = [*run.path(plan.ADAPTER).glob("adapter_model*.safetensors")]
    files += [run.path(plan.SOFT_PROMPT)] if plan.learns_soft_prompt(run.recipe) else []
    files += [run.path(plan.GENERATOR)] if plan.pseudo_audio(run.recipe) == "generate" else []
    return sum(weights.numel() for file in files for weights in load_file(file).values())


def _plot(comparison: Comparison, out: Path) -> None:
    """Draw the WER on the target set against that on the source set, for each method with nothing added."""
    from matplotlib.figure import Figure

    rows = [row for row in comparison.summaries() if not row["added"] and "source" in row["figures"]]
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axis = figure.subplots()
    for row in rows:
        source, target = row["figures"]["source"], row["figures"]["wer"]
        axis.errorbar(
            100 * source["mean"],
            100 * target["mean"],
            xerr=100 * (source["deviation"] or 0),
            yerr=100 * (target["deviation"] or 0),
            fmt="s" if row["method"] == BASE else "o",
            label=row["method"],
        )
    axis.set_xlabel("source WER, %")
    axis.set_ylabel("target WER, %")
    if rows:
        axis.legend()
    figure.savefig(out, dpi=120)
