"""Weights of what is fused, found on the development set: n-best lists are rescored over a grid, and what comes out is
decoded, whose n-best lists join the others, until nothing better comes out (as minimum error rate training does, Och
2003).

What is made small is WER plus EER, each as a share of what it is without fusion. A false alarm counts as a wrong
mention, and twice as many as without fusion are refused: names out of nothing must buy nothing. So are weights that
cost general speech, where the recipe names some (`data.source_dev`): twice its false alarms, or a WER that rises by
more than GUARD. A system of which all that was decoded is refused is left out.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from adapt.decode.ctc import CtcFusion, log_posteriors
from adapt.decode.transcribe import generate
from adapt.decode.weights import Weights
from adapt.errors import DataError
from adapt.model.bases import has_ctc
from adapt.model.features import read_audio
from adapt.model.speech_llm import SpeechLLM
from adapt.run import StageResult, read_json, write_json
from adapt.score.entity import entity_errors
from adapt.score.wer import align, count
from adapt.stages.context import Run
from adapt.stages.plan import SOFT_PROMPT, TUNED, audio_of, base_of, check_fusion
from adapt.stages.systems import System, fusion_of, system_of
from adapt.text.corpus import Utterance
from adapt.text.lexicon import PhraseIndex, find_mentions, phrase_index, place_entities, read_lexicon
from adapt.text.normalise import NORMALISERS

PARTS = (("lm",), ("boost",), ("lm", "ilm", "boost", "reward"))
GRID = {
    "lm": (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
    "ilm": (0.0, 0.05, 0.1, 0.15, 0.2, 0.3),
    "boost": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0),
    "reward": (-0.5, 0.0, 0.5, 1.0),
}
# Beside 0. Hotwords are left out: with a lexicon of 1,500 names they cost pyctcdecode a second an utterance.
CTC_GRID = {"lm": (0.2, 0.4, 0.6), "reward": (1.0, 2.0)}
START = {"lm": 0.1, "ilm": 0.1, "boost": 0.6, "reward": 0.0}
ROUNDS = 8
GUARD = 0.02  # relative rise of the WER of general speech from which weights are refused
REFUSED = 1_000


@dataclass(frozen=True)
class DevCounts:
    """What the development set counts, in all; source: of general speech."""

    errors: int
    words: int
    wrong: int
    mentions: int
    alarms: int
    source_errors: int = 0
    source_words: int = 0
    source_alarms: int = 0

    def refused(self, base: DevCounts) -> bool:
        """Does it harm more than it may?"""
        alarms = any(mine >= 2 * max(1, its) for mine, its in self._alarms(base))
        return alarms or self.source_errors > (1 + GUARD) * base.source_errors

    def cost(self, base: DevCounts) -> float:
        """WER as a share of the base's, plus, where there are mentions, the same of wrong ones and false alarms.

        Where it is refused, REFUSED more, and more yet for what it is refused for.
        """
        cost = self.errors / max(1, base.errors)
        cost += (self.wrong + self.alarms) / max(1, base.wrong + base.alarms) if base.mentions else 0.0
        if self.refused(base):
            harm = self.source_errors / max(1, base.source_errors)
            cost += REFUSED + harm + sum(mine / max(1, its) for mine, its in self._alarms(base))
        return cost

    def _alarms(self, base: DevCounts) -> tuple[tuple[int, int], ...]:
        return (self.alarms, base.alarms), (self.source_alarms, base.source_alarms)

    @property
    def wer(self) -> float:
        return self.errors / max(1, self.words)

    @property
    def source_wer(self) -> float | None:
        return self.source_errors / self.source_words if self.source_words else None

    @property
    def eer(self) -> float | None:
        return self.wrong / self.mentions if self.mentions else None


@dataclass
class _Pool:
    """Every hypothesis that was met for each utterance, with what each part and the reference say of it."""

    judge: list[Callable[[str], DevCounts]]
    hypotheses: list[dict[str, tuple]] = field(init=False)

    def __post_init__(self) -> None:
        self.hypotheses = [{} for _ in self.judge]

    def add(self, place: int, hypothesis) -> None:
        known = self.hypotheses[place].get(hypothesis.text)
        if known is None or hypothesis.score(Weights()) > known[0].score(Weights()):
            counts = known[1] if known else self.judge[place](hypothesis.text)
            self.hypotheses[place][hypothesis.text] = (hypothesis, counts)

    def arrays(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """By part `[utterances, hypotheses]`, filled up with what never wins, and counts `[…, 8]`."""
        width = max(map(len, self.hypotheses))
        parts = {key: np.zeros((len(self.judge), width)) for key in ("model", "tokens", *START) if key != "reward"}
        parts["model"][:] = -np.inf
        counted = np.zeros((len(self.judge), width, len(dataclasses.fields(DevCounts))), np.int64)
        for i, known in enumerate(self.hypotheses):
            for j, (hypothesis, counts) in enumerate(known.values()):
                for key, values in parts.items():
                    values[i, j] = getattr(hypothesis, key)
                counted[i, j] = dataclasses.astuple(counts)
        return parts, counted


def _ranked(parts: Mapping[str, np.ndarray], weights: Weights) -> np.ndarray:
    fused = parts["model"] + weights.lm * parts["lm"] - weights.ilm * parts["ilm"] + weights.boost * parts["boost"]
    fused += weights.reward * parts["tokens"]
    return (fused / (parts["tokens"] + 1)).argmax(1)


@dataclass(frozen=True)
class TunedSystem:
    """One system: its best weights, what the development set counts with them, and every point of the surface.

    surface: (weights, cost) over the pooled n-best lists, a point each; of the CTC path, over what was decoded.
    """

    of: str
    weights: dict[str, float]
    counts: DevCounts
    base: DevCounts
    surface: list[tuple[dict[str, float], float]]


def judges(
    utterances: Sequence[Utterance], index: PhraseIndex | None, normalise: Callable[[str], str], source: bool = False
) -> list[Callable[[str], DevCounts]]:
    """For each utterance, what counts a transcript of it. source: of general speech, whose mentions do not count."""

    def of(utterance: Utterance) -> Callable[[str], DevCounts]:
        ref = tuple(normalise(utterance.text).split())
        if utterance.entities is not None:
            mentions = place_entities(ref, utterance.entities, normalise)[0]
        else:
            mentions = find_mentions(ref, index) if index else []

        def judge(text: str) -> DevCounts:
            hyp = tuple(normalise(text).split())
            ops = align(ref, hyp)
            c, e = count(ref, hyp, ops), entity_errors(ref, hyp, ops, mentions, index)
            errors, alarms = c.substitutions + c.deletions + c.insertions, e.false_alarms or 0
            if source:
                return DevCounts(0, 0, 0, 0, 0, errors, c.words, alarms)
            return DevCounts(errors, c.words, sum(j.wrong for j in e.judged), len(mentions), alarms)

        return judge

    return [of(utterance) for utterance in utterances]


def _sum(counts: Sequence[DevCounts]) -> DevCounts:
    return DevCounts(*map(sum, zip(*map(dataclasses.astuple, counts), strict=True)))


def search(
    decode: Callable[[Weights], Sequence[Sequence]],
    judge: Sequence[Callable[[str], DevCounts]],
    active: Sequence[str],
    of: str,
    bar: Callable[[], object] = lambda: None,
) -> TunedSystem:
    """Weights of the `active` parts, none of them 0 but the reward.

    decode: n-best hypotheses (`fusion.Hypothesis`) of each utterance, best first.
    """
    pool, decoded = _Pool(list(judge)), {}

    def tried(weights: Weights) -> DevCounts:
        if weights not in decoded:
            found = decode(weights)
            for place, hypotheses in enumerate(found):
                for hypothesis in hypotheses:
                    pool.add(place, hypothesis)
            decoded[weights] = _sum([j(hs[0].text) for j, hs in zip(judge, found, strict=True)])
            bar()
        return decoded[weights]

    base = tried(Weights())
    tried(Weights(**{key: START[key] for key in active}))
    # A row tells what its parts do together: none of them is left out, but the reward.
    values = [[v for v in GRID[key] if v or key == "reward"] for key in active]
    points = [Weights(**dict(zip(active, p, strict=True))) for p in itertools.product(*values)]
    for _ in range(ROUNDS):
        parts, counted = pool.arrays()
        rows = np.arange(len(counted))
        costs = [DevCounts(*counted[rows, _ranked(parts, w)].sum(0).tolist()).cost(base) for w in points]
        ranked = [points[i] for i in np.argsort(costs, kind="stable")]
        if ranked[0] in decoded and not decoded[ranked[0]].refused(base):
            break
        # n-best lists know nothing of what a beam would lose: where all they promise is refused, others may not be.
        if (untried := next((weights for weights in ranked if weights not in decoded), None)) is None:
            break
        tried(untried)
    best = min((w for w in decoded if w != Weights()), key=lambda w: decoded[w].cost(base))
    surface = [({k: getattr(w, k) for k in active}, cost) for w, cost in zip(points, costs, strict=True)]
    return TunedSystem(of, dataclasses.asdict(best), decoded[best], base, surface)


def search_ctc(
    decode: Callable[[Weights], Sequence[str]],
    judge: Sequence[Callable[[str], DevCounts]],
    active: Sequence[str],
    bar: Callable[[], object] = lambda: None,
) -> TunedSystem:
    """As `search`, for a search that gives no scores apart: one weight after the other."""
    decoded: dict[Weights, DevCounts] = {}

    def tried(weights: Weights) -> float:
        if weights not in decoded:
            decoded[weights] = _sum([j(text) for j, text in zip(judge, decode(weights), strict=True)])
            bar()
        return decoded[weights].cost(decoded[Weights()])

    best = Weights()
    tried(best)
    for key in active:
        points = [dataclasses.replace(best, **{key: value}) for value in CTC_GRID[key]]
        best = min([best, *points] if key == "reward" else points, key=tried)
    surface = [({k: getattr(w, k) for k in active}, tried(w)) for w in decoded]
    return TunedSystem("ctc", dataclasses.asdict(best), decoded[best], decoded[Weights()], surface)


def check(run: Run) -> None:
    """Raises DataError for what `tune` cannot do with the recipe, before the stages that it needs are done."""
    if not run.recipe.data.dev:
        raise DataError("recipe.yaml: data.dev: missing; name a manifest of the domain to tune on, not the test set")
    manifests = [path for path in (run.recipe.data.dev, run.recipe.data.source_dev) if path]
    check_fusion(run, [dict.fromkeys(active, 1.0) for active in _parts(run)], manifests)


def _parts(run: Run) -> list[tuple[str, ...]]:
    parts = (tuple(p for p in active if p != "boost" or run.recipe.data.lexicon) for active in PARTS)
    return [active for active in dict.fromkeys(parts) if active]


def tune(run: Run) -> StageResult:
    """Find weights for base, adapted and ctc systems on `data.dev`: `lm/tuned.json`, which `adapt run` then heeds.

    `data.source_dev`, where it is named, is decoded with it, as a guard. What is longer than the base takes at once is
    left out.
    """
    check(run)
    recipe = run.recipe

    def work(scratch: Path) -> None:
        normalise = NORMALISERS[recipe.data.normaliser]
        utterances = run.recordings("dev")
        lexicon = read_lexicon(recipe.data.lexicon) if recipe.data.lexicon else None
        index = phrase_index(lexicon, normalise) if lexicon else None
        judge = judges(utterances, index, normalise)
        if recipe.data.source_dev:
            source = run.recordings("source_dev")
            judge += judges(source, index, normalise, source=True)
            utterances = utterances + source
        named = [(of, active) for of in ("base", "adapted") for active in _parts(run)]
        form = "{desc:<10} [{bar:20}] {n_fmt}/{total_fmt} decodings of the development set  {remaining} left"
        by_ctc = tuple(CTC_GRID) if has_ctc(recipe.base) and _ctc_can() else ()
        ctc_points = 1 + sum(len(CTC_GRID[key]) for key in by_ctc) if by_ctc else 0
        # The bar jumps where a search ends early: each is counted with all its rounds.
        with tqdm(total=len(named) * (ROUNDS + 2) + ctc_points, desc="tune", bar_format=form) as bar:
            starts = {"base": recipe.base, "adapted": run.start}
            slots = {name: run.slots(utterances, run.speech_llm(name)) for name in set(starts.values())}
            ctc = has_ctc(recipe.base)
            posteriors = {name: _posteriors(run.speech_llm(name), utterances) if ctc else [] for name in slots}

            def searched(of: str, active: Sequence[str]) -> dict:
                done = scratch / f"{of}-{'-'.join(active)}.json"
                if not done.exists():  # a search that was done before a kill is not done again
                    if of == "ctc":
                        tuned = search_ctc(
                            _ctc_decoder(run, utterances, posteriors[recipe.base]), judge, active, bar.update
                        )
                    else:
                        heard = slots[starts[of]], posteriors[starts[of]]
                        decode = _decoder(run, of, active, utterances, *heard)
                        tuned = search(decode, judge, active, of, bar.update)
                    write_json(done, dataclasses.asdict(tuned))
                return json.loads(done.read_text(encoding="utf-8"))

            found = []
            for i, (of, active) in enumerate(named):
                found.append(searched(of, active))
                bar.update((i + 1) * (ROUNDS + 2) - bar.n)
            found += [searched("ctc", by_ctc)] if by_ctc else []
        rows = {f"{row['of']} + {label}": row for row in found if (label := Weights(**row["weights"]).label)}
        harmful = [name for name, row in rows.items() if DevCounts(**row["counts"]).refused(DevCounts(**row["base"]))]
        systems = {name: row for name, row in rows.items() if name not in harmful}
        write_json(run.path(TUNED), {"systems": systems, "refused": harmful})

    settings = {"fusion": {"ilm_slot": recipe.fusion.ilm_slot}, "base": base_of(recipe)}
    settings |= {"transcribe": dataclasses.asdict(recipe.transcribe), "data": {"normaliser": recipe.data.normaliser}}
    spoken = [manifest for manifest in (recipe.data.dev, recipe.data.source_dev) if manifest]
    inputs = [file for manifest in spoken for file in (manifest, *audio_of(manifest))]
    inputs += [run.path("adapter"), run.path("lm/tokens.arpa")]
    inputs += [run.path("lm/words.arpa"), *([recipe.data.lexicon] if recipe.data.lexicon else [])]
    inputs += [run.path(SOFT_PROMPT)] if recipe.fusion.ilm_slot == "soft-prompt" else []
    result = run.folder.stage("tune", settings, inputs, [TUNED], work)
    run.report(result, f"{len(_read(run)['systems'])} systems on {recipe.data.dev.name}")
    return result


def _decoder(
    run: Run,
    of: str,
    active: Sequence[str],
    utterances: Sequence[Utterance],
    slots: Sequence[torch.Tensor],
    posteriors: Sequence[np.ndarray],
) -> Callable[[Weights], list[list]]:
    llm, settings = system_of(run, of), run.recipe.transcribe
    prompts, ctc = [llm.prompt(slot) for slot in slots], settings.ctc_weight if posteriors else 0.0
    whole = fusion_of(run, System(of, dataclasses.asdict(Weights(**dict.fromkeys(active, 1.0)))))
    order = sorted(range(len(slots)), key=lambda i: len(slots[i]))

    def decode(weights: Weights) -> list[list]:
        fusion, found = whole.weighted(dataclasses.replace(weights, ctc=ctc)), [[] for _ in utterances]
        for start in range(0, len(order), settings.batch_size):
            places = order[start : start + settings.batch_size]
            batch, own = [prompts[i] for i in places], [utterances[i].phrases for i in places]
            heard = [torch.from_numpy(posteriors[i]).to(llm.device) for i in places] if ctc else []
            processors = fusion.processors(own, heard)
            nbest = generate(llm, batch, settings.num_beams, settings.max_new_tokens, processors, settings.num_beams)
            each = [k for k, hypotheses in enumerate(nbest) for _ in hypotheses]
            tokens = [h for hypotheses in nbest for h in hypotheses]
            judged = fusion.judged([batch[k] for k in each], tokens, [own[k] for k in each], heard)
            for k, hypothesis in zip(each, judged, strict=True):
                # CTC's weight is not searched: what it says is the model's own.
                model = hypothesis.model + ctc * hypothesis.ctc
                found[places[k]].append(dataclasses.replace(hypothesis, model=model, ctc=0.0))
        return found

    return decode


def _ctc_can() -> bool:
    try:
        import pyctcdecode  # noqa: F401
    except ImportError:
        return False
    return True


def _posteriors(speech_llm: SpeechLLM, utterances: Sequence[Utterance]) -> list[np.ndarray]:
    audio = [read_audio(u.audio) for u in utterances]
    batches = (log_posteriors(speech_llm, audio[start : start + 16]) for start in range(0, len(audio), 16))
    return list(itertools.chain.from_iterable(batches))


def _ctc_decoder(
    run: Run, utterances: Sequence[Utterance], posteriors: Sequence[np.ndarray]
) -> Callable[[Weights], list[str]]:
    def decode(weights: Weights) -> list[str]:
        fusion = fusion_of(run, System("ctc", dataclasses.asdict(weights))) or CtcFusion(
            run.speech_llm(), weights, normalise=NORMALISERS[run.recipe.data.normaliser]
        )
        return [fusion.decode(row, u.phrases) for row, u in zip(posteriors, utterances, strict=True)]

    return decode


def _read(run: Run) -> dict[str, dict]:
    return read_json(run.path(TUNED))


def table(run: Run) -> str:
    """Of each system its weights and what the development set says with them, and the surface around them."""
    found = _read(run)
    lines = []
    for label, row in found["systems"].items():
        counts, base = DevCounts(**row["counts"]), DevCounts(**row["base"])
        weights = "  ".join(f"{key} {value:g}" for key, value in row["weights"].items() if value)
        figures = f"WER {100 * base.wer:.1f} -> {100 * counts.wer:.1f}"
        if base.mentions:
            figures += f", EER {100 * base.eer:.1f} -> {100 * counts.eer:.1f}"
            figures += f", false alarms {base.alarms} -> {counts.alarms}"
        if base.source_words:
            figures += f"; source: WER {100 * base.source_wer:.1f} -> {100 * counts.source_wer:.1f}"
            figures += f", false alarms {base.source_alarms} -> {counts.source_alarms}" if base.mentions else ""
        lines += [f"{label}: {weights}", f"  dev: {figures}"]
        for key in row["surface"][0][0]:
            # The best that can be had at each value of one weight, whatever the others.
            best: dict[float, float] = {}
            for weights_of, cost in row["surface"]:
                best[weights_of[key]] = min(cost, best.get(weights_of[key], cost))
            lines.append(f"  {key:<7}" + "  ".join(f"{value:g}: {cost:.3f}" for value, cost in sorted(best.items())))
    lines.append("Behind the colons: WER plus EER, each as a share of that without fusion (2: as without).")
    lines.append(f"From {REFUSED:,} up: refused, for false alarms or what it costs the source.")
    lines += [f"{label}: left out: all that was decoded is refused" for label in found["refused"]]
    return "\n".join(lines)
