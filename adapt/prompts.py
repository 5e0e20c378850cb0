"""How much the wording of the prompt matters: many templates, each as it is and learned, on one base in memory."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from adapt.errors import DataError
from adapt.run import write_json
from adapt.score.score import score
from adapt.stages.context import Run
from adapt.stages.plan import audio_of, base_of
from adapt.stages.project import paired
from adapt.text.corpus import read_lines
from adapt.text.lexicon import read_lexicon
from adapt.text.template import CHAT, LEARNED, SPEECH, Segment, parse, projectable, read_template, written

SHIPPED = Path(__file__).parent / "assets/prompts.txt"
OWN = "own"  # the base behind the prompt that it has
METHODS = ("plain", "tokens-8", "mlp", "residual")


@dataclass(frozen=True)
class Trial:
    """One prompt by one method with one seed, on the development set. eer: None without mentions."""

    template: str
    method: str
    seed: int
    wer: float
    eer: float | None


@dataclass(frozen=True)
class Sensitivity:
    rows: list[Trial]

    def to_json(self) -> dict:
        return {"rows": [dataclasses.asdict(row) for row in self.rows], "methods": self._summaries()}

    def _summaries(self) -> list[dict]:
        found = []
        for method in dict.fromkeys(row.method for row in self.rows):
            rows = [row for row in self.rows if row.method == method]
            summary = {"method": method, "trials": len(rows), "best": min(rows, key=lambda row: row.wer).template}
            for key in ("wer", "eer"):
                values = sorted(value for row in rows if (value := getattr(row, key)) is not None)
                if values:
                    median = statistics.median(values)
                    summary[key] = {"min": values[0], "median": median, "max": values[-1]}
                    summary[key]["spread"] = values[-1] - values[0]
            found.append(summary)
        return found

    def table(self) -> str:
        """Of each method the least, the median and the most WER and EER over its prompts and seeds."""
        lines = ["method      trials   WER: min  median    max  spread   EER: min  median    max  spread"]
        for s in self._summaries():
            figures = [
                "".join(f"{100 * s[key][k]:8.1f}" for k in s[key]) if key in s else " " * 32 for key in ("wer", "eer")
            ]
            lines.append(f"{s['method']:<12}{s['trials']:>6}   " + "   ".join(figures))
        best = min(self.rows, key=lambda row: row.wer)
        lines += ["", f"Use: {best.template!r} ({best.method}, WER {100 * best.wer:.1f})"]
        return "\n".join(lines)


def templates_of(file: Path | None) -> list[str]:
    """The templates of a file, one a line, or those that come along. Raises `RecipeError` for what is none."""
    found = [line for _, line in read_lines(file or SHIPPED)]
    if not found:
        raise DataError(f"{file}: holds no templates; write one a line")
    found = [read_template(line, (file or SHIPPED).parent) for line in found]
    return [written(parse(template)) for template in found]


def _learnable(template: str, method: str) -> tuple[str, str]:
    """The template and the method of `LearnedPrompt` that a method here stands for."""
    if not method.startswith("tokens"):
        return template, method
    count = int(method.partition("-")[2])
    segments = parse(template)
    chat = [s for s in segments if s.kind == CHAT]
    tokens, slot = Segment(LEARNED, count=count), Segment(SPEECH)
    order = [slot, tokens] if segments[len(chat)] == slot else [tokens, slot]
    return written([*chat, *order]), "tokens"


def prompts(run: Run, file: Path | None, methods: Sequence[str], seeds: int) -> Sensitivity:
    """Each template by each method, and the base's own prompt: learned on the paired audio, scored on `data.dev`.

    Tokens take the place of a template's text, before the slot or behind it as that stands, so that templates which
    differ in their words alone are tried once. What is done is kept in `prompts/`, and not done again.
    """
    import torch

    from adapt.decode.beam_search import generate
    from adapt.model.learned_prompt import LearnedPrompt, with_learned, with_template
    from adapt.train.project import learn_from_pairs

    recipe, llm = run.recipe, run.speech_llm()
    templates = templates_of(file)
    for method in methods:
        if method not in ("plain", "mlp", "residual") and not re.fullmatch(r"tokens-[1-9]\d*", method):
            raise DataError(f"--method {method}: unknown; write plain, tokens-8 (or another number), mlp or residual")
    if not recipe.data.dev:
        raise DataError("recipe.yaml: data.dev: missing; name a manifest to compare prompts on, not the test set")
    utterances = run.recordings("dev")
    trials = [(OWN, OWN, "plain", 1)]
    for method in methods:
        seen = set()
        for template in templates:
            what = _learnable(template, method)
            if what in seen or (method in ("mlp", "residual") and not projectable(parse(template))):
                continue
            seen.add(what)
            trials += [(method, *what, seed) for seed in range(1, 2 if method == "plain" else seeds + 1)]
    train, dev = paired(run, llm) if any(method != "plain" for method in methods) else (None, None)
    slots = run.slots(utterances, llm)
    lexicon = read_lexicon(recipe.data.lexicon) if recipe.data.lexicon else None
    given = {key: getattr(recipe.project, key) for key in ("steps", "batch_size", "learning_rate", "eval_every")}
    heard_how = [base_of(recipe), dataclasses.asdict(recipe.transcribe), recipe.data.normaliser]
    heard_how += [_sha(recipe.data.lexicon), _sha(recipe.data.dev), *map(_sha, audio_of(recipe.data.dev))]
    learned_how = [recipe.project.init, recipe.project.size, given, recipe.precision]
    learned_how += [_sha(recipe.data.paired), *map(_sha, audio_of(recipe.data.paired))]
    order = sorted(range(len(slots)), key=lambda i: len(slots[i]))
    beams, size, longest = recipe.transcribe.num_beams, recipe.transcribe.batch_size, recipe.transcribe.max_new_tokens

    def heard(view) -> dict[str, str]:
        # Without CTC beside it, whatever the recipe says: it would hide what a prompt does to the decoder.
        texts = {}
        for start in range(0, len(order), size):
            places = order[start : start + size]
            found = generate(view, [view.prompt(slots[i]) for i in places], beams, longest)
            texts |= {utterances[i].id: view.decode(best) for i, (best, *_) in zip(places, found, strict=True)}
        return texts

    def tried(method: str, template: str, kind: str, seed: int) -> Trial:
        key = json.dumps([template, method, seed, heard_how, [] if method == "plain" else learned_how], sort_keys=True)
        file = run.path("prompts", hashlib.sha256(key.encode()).hexdigest()[:16] + ".json")
        if not file.exists():
            if kind == "plain":
                view = llm if method == OWN else with_template(llm, template)
            else:
                torch.manual_seed(seed)
                more = {"init": recipe.project.init, "size": recipe.project.size, "examples": train.slots[:50]}
                learned = LearnedPrompt(llm, template, kind, **more)
                scratch, out = run.path("checkpoints", f"prompts-{file.stem}"), file.with_suffix(".safetensors")
                how = {"folder": scratch, "out": out, "seed": seed, "precision": recipe.precision}
                learn_from_pairs(llm, learned, train, dev, **how, **given)
                shutil.rmtree(scratch)
                view = with_learned(llm, learned)
            texts = heard(view)
            how = {"normaliser": recipe.data.normaliser, "resamples": 1}
            found = score({"dev": utterances}, {"dev": {"it": texts}}, lexicon, **how)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, dataclasses.asdict(Trial(template, method, seed, found.rows[0].wer, found.rows[0].eer)))
        return Trial(**json.loads(file.read_text(encoding="utf-8")))

    form = "{desc:<10} [{bar:20}] {n_fmt}/{total_fmt} trials  {remaining} left\n"
    rows = [tried(*trial) for trial in tqdm(trials, desc="prompts", bar_format=form)]
    found = Sensitivity(rows)
    write_json(run.path("prompts/table.json"), found.to_json())
    _plot(rows, run.path("prompts/wer.png"))
    return found


def _sha(path: Path | None) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path else None


def _plot(rows: Sequence[Trial], out: Path) -> None:
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(row.method for row in rows))
    figure = Figure(figsize=(1.5 + 1.2 * len(methods), 3.5), layout="constrained")
    axis = figure.subplots()
    axis.boxplot([[100 * row.wer for row in rows if row.method == method] for method in methods], whis=(0, 100))
    axis.set_xticks(range(1, len(methods) + 1), methods)
    axis.set_ylabel("WER, %, over prompts and seeds")
    figure.savefig(out, dpi=120)
