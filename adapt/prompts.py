"""`adapt prompts`: measure how much the wording of the prompt matters, for plain and for learned prompts."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from adapt.errors import DataError, RecipeError
from adapt.run import read_json, write_json
from adapt.score.scoring import score_systems
from adapt.stages import plan
from adapt.stages.context import Run
from adapt.stages.project import INIT_EXAMPLES, paired_audio
from adapt.text.files import read_lines
from adapt.text.lexicon import Lexicon, read_lexicon
from adapt.text.manifest import Utterance
from adapt.text.template import CHAT, LEARNED, SPEECH, Segment, parse, projectable, read_template, written

if TYPE_CHECKING:
    import torch

    from adapt.model.speech_llm import SpeechLLM
    from adapt.train.common import PairedAudio

SHIPPED = Path(__file__).parent / "assets/prompts.txt"
OWN = "own"  # the base with its own prompt
METHODS = ("plain", "tokens-8", "mlp", "residual")


@dataclass(frozen=True)
class Candidate:
    """A prompt to try. method: `own`, or as in --method. kind: `plain`, or the method of a `LearnedPrompt`."""

    method: str
    template: str
    kind: str
    seed: int

    @property
    def slug(self) -> str:
        """A file name for it."""
        return f"{self.method}-{hashlib.sha256(self.template.encode()).hexdigest()[:8]}-{self.seed}"


@dataclass(frozen=True)
class Trial:
    """The scores of one prompt on the development set. eer: None without mentions."""

    template: str
    method: str
    seed: int
    wer: float
    eer: float | None


@dataclass(frozen=True)
class PromptComparison:
    """Every trial, and by method the minimum, median, maximum and spread over its prompts and seeds."""

    trials: list[Trial]

    def to_json(self) -> dict:
        """`{"rows": [trial, …], "methods": [summary, …]}`."""
        return {"rows": [dataclasses.asdict(trial) for trial in self.trials], "methods": self._summaries()}

    def _summaries(self) -> list[dict]:
        """A row for each method: its trials, its best template, and the range of WER and EER."""
        summaries = []
        for method in dict.fromkeys(trial.method for trial in self.trials):
            trials = [trial for trial in self.trials if trial.method == method]
            best = min(trials, key=lambda trial: trial.wer).template
            summary = {"method": method, "trials": len(trials), "best": best}
            for key in ("wer", "eer"):
                values = sorted(value for trial in trials if (value := getattr(trial, key)) is not None)
                if values:
                    summary[key] = {"min": values[0], "median": statistics.median(values), "max": values[-1]}
                    summary[key]["spread"] = values[-1] - values[0]
            summaries.append(summary)
        return summaries

    def table(self) -> str:
        """A line for each method, in percent, and the prompt with the lowest WER."""
        lines = ["method      trials   WER: min  median    max  spread   EER: min  median    max  spread"]
        for s in self._summaries():
            figures = [
                "".join(f"{100 * s[key][k]:8.1f}" for k in s[key]) if key in s else " " * 32 for key in ("wer", "eer")
            ]
            lines.append(f"{s['method']:<12}{s['trials']:>6}   " + "   ".join(figures))
        best = min(self.trials, key=lambda trial: trial.wer)
        lines += ["", f"Use: {best.template!r} ({best.method}, WER {100 * best.wer:.1f})"]
        return "\n".join(lines)


def read_templates(file: Path | None) -> list[str]:
    """The templates of a file, one a line. file: None: those of the package.

    Raises DataError for a file without lines, and RecipeError for a line that is no template.
    """
    lines = [line for _, line in read_lines(file or SHIPPED)]
    if not lines:
        raise DataError(f"{file}: holds no templates; write one a line")
    templates = [read_template(line, (file or SHIPPED).parent) for line in lines]
    return [written(parse(template)) for template in templates]


def candidates(templates: Sequence[str], methods: Sequence[str], seeds: int) -> Iterator[Candidate]:
    """The base with its own prompt, then each template with each method and seed. Equal candidates occur once.

    With `tokens-N`, N tokens replace the text of a template before or after the slot, so that templates which differ in
    their words alone are one candidate. Raises RecipeError for an unknown method.
    """
    for method in methods:
        if method not in ("plain", "mlp", "residual") and not re.fullmatch(r"tokens-[1-9]\d*", method):
            raise RecipeError(f"--method {method}: unknown; write plain, tokens-8 (or another number), mlp or residual")
    yield Candidate(OWN, OWN, "plain", 1)
    for method in methods:
        seen = set()
        for template in templates:
            template, kind = _with_tokens(template, method)
            if template in seen or (method in ("mlp", "residual") and not projectable(parse(template))):
                continue
            seen.add(template)
            for seed in range(1, 2 if method == "plain" else seeds + 1):
                yield Candidate(method, template, kind, seed)


def _with_tokens(template: str, method: str) -> tuple[str, str]:
    """The template and the kind of `LearnedPrompt` for a method."""
    if not method.startswith("tokens"):
        return template, method
    segments, count = parse(template), int(method.partition("-")[2])
    chat = [segment for segment in segments if segment.kind == CHAT]
    tokens, slot = Segment(LEARNED, count=count), Segment(SPEECH)
    order = [slot, tokens] if segments[len(chat)] == slot else [tokens, slot]
    return written([*chat, *order]), "tokens"


@dataclass
class _Data:
    """The data of every trial: the development set and, unless nothing is learned, paired audio."""

    utterances: list[Utterance]
    embeddings: list[torch.Tensor]
    lexicon: Lexicon | None
    train: PairedAudio | None
    dev: PairedAudio | None


def compare_prompts(run: Run, file: Path | None, methods: Sequence[str], seeds: int) -> PromptComparison:
    """Learn each prompt from the paired audio and score it on `data.dev`, besides the base with its own prompt.

    file: as in `read_templates`. methods, seeds: as in `candidates`. Trials that are done are skipped. Writes
    `prompts/`. Raises RecipeError without `data.dev`.
    """
    recipe, speech_llm = run.recipe, run.speech_llm()
    if not recipe.data.dev:
        raise RecipeError(
            "recipe.yaml: data.dev: missing; name a manifest to compare prompts on, which is not the test set"
        )
    tried = list(candidates(read_templates(file), methods, seeds))
    utterances = run.recordings("dev")
    learns = any(candidate.kind != "plain" for candidate in tried)
    train, dev = paired_audio(run, speech_llm) if learns else (None, None)
    lexicon = read_lexicon(recipe.data.lexicon) if recipe.data.lexicon else None
    data = _Data(utterances, run.audio_embeddings(utterances, speech_llm), lexicon, train, dev)
    form = "{desc:<10} [{bar:20}] {n_fmt}/{total_fmt} trials  {remaining} left\n"
    trials = [_trial(run, data, candidate) for candidate in tqdm(tried, desc="prompts", bar_format=form)]
    comparison = PromptComparison(trials)
    write_json(run.path("prompts/table.json"), comparison.to_json())
    _plot(trials, run.path("prompts/wer.png"))
    return comparison


def _trial(run: Run, data: _Data, candidate: Candidate) -> Trial:
    """Score a candidate, as a stage of its own, which is skipped if it is done."""
    recipe, out = run.recipe, f"prompts/{candidate.slug}.json"
    settings = {
        "prompt": {"template": candidate.template, "method": candidate.method, "seed": candidate.seed},
        "base": plan.base_record(recipe),
        "transcribe": recipe.transcribe.search(),
        **plan.transcripts_record(recipe),
        "recordings": run.folder.digest(run.manifests.files(recipe.data.dev)),
    }
    if candidate.kind != "plain":
        unused = ("method", "template", "encoder", "projector", "llm", "weights_rate")
        learning = {key: value for key, value in dataclasses.asdict(recipe.project).items() if key not in unused}
        settings |= {"project": learning, "precision": recipe.precision}
        settings["paired"] = run.folder.digest(run.manifests.files(recipe.data.paired))

    def work(scratch: Path) -> None:
        texts = _transcripts(run, _prompted(run, data, candidate, scratch), data)
        hyps = {"dev": {candidate.slug: texts}}
        scores = score_systems({"dev": data.utterances}, hyps, data.lexicon, recipe.data.normaliser, resamples=1)
        row = scores.rows[0]
        trial = Trial(candidate.template, candidate.method, candidate.seed, row.wer, row.eer)
        write_json(run.path(out), dataclasses.asdict(trial))

    inputs = [recipe.data.lexicon] if recipe.data.lexicon else []
    run.folder.stage(f"prompts-{candidate.slug}", settings, inputs, [out], work)
    return Trial(**read_json(run.path(out)))


def _prompted(run: Run, data: _Data, candidate: Candidate, scratch: Path) -> SpeechLLM:
    """The base with the prompt of a candidate, which is learned first unless it is plain."""
    import torch

    from adapt.model.learned_prompt import LearnedPrompt, with_learned, with_template
    from adapt.train.project import learn_from_pairs

    speech_llm, settings = run.speech_llm(), run.recipe.project
    if candidate.kind == "plain":
        return speech_llm if candidate.method == OWN else with_template(speech_llm, candidate.template)
    torch.manual_seed(candidate.seed)
    start = {"init": settings.init, "size": settings.size, "examples": data.train.embeddings[:INIT_EXAMPLES]}
    learned = LearnedPrompt(speech_llm, candidate.template, candidate.kind, **start)
    out = run.path("prompts", f"{candidate.slug}.safetensors")
    learn_from_pairs(
        speech_llm,
        learned,
        data.train,
        data.dev,
        settings,
        folder=scratch,
        out=out,
        seed=candidate.seed,
        precision=run.recipe.precision,
    )
    return with_learned(speech_llm, learned)


def _transcripts(run: Run, speech_llm: SpeechLLM, data: _Data) -> dict[str, str]:
    """The transcripts of the development set by id, without CTC, which would hide the effect of a prompt."""
    from adapt.decode.beam_search import generate

    settings, texts = run.recipe.transcribe, {}
    order = sorted(range(len(data.embeddings)), key=lambda i: len(data.embeddings[i]))
    for start in range(0, len(order), settings.batch_size):
        places = order[start : start + settings.batch_size]
        prompts = [speech_llm.prompt(data.embeddings[i]) for i in places]
        hypotheses = generate(speech_llm, prompts, settings.num_beams, settings.max_new_tokens)
        for place, (best, *_) in zip(places, hypotheses, strict=True):
            texts[data.utterances[place].id] = speech_llm.decode(best)
    return texts


def _plot(trials: Sequence[Trial], out: Path) -> None:
    """Draw a box plot of the WER of each method."""
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(trial.method for trial in trials))
    figure = Figure(figsize=(1.5 + 1.2 * len(methods), 3.5), layout="constrained")
    axis = figure.subplots()
    values = [[100 * trial.wer for trial in trials if trial.method == method] for method in methods]
    axis.boxplot(values, whis=(0, 100))
    axis.set_xticks(range(1, len(methods) + 1), methods)
    axis.set_ylabel("WER, %, over prompts and seeds")
    figure.savefig(out, dpi=120)
