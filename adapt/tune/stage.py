"""Stage `tune`: tune the weights of each system on the development set, and write them to `lm/tuned.json`."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from adapt.decode.ctc import log_posteriors
from adapt.decode.hypothesis import Hypothesis
from adapt.decode.parts import LENGTH, PARTS, label, part_of
from adapt.decode.recognise import Recogniser, Search, decoder_recogniser, first_pass_recogniser
from adapt.decode.weights import Weights
from adapt.errors import RecipeError
from adapt.model.bases import has_ctc, transcribes
from adapt.model.features import read_audio
from adapt.model.speech_llm import SpeechLLM
from adapt.run import read_json, write_json
from adapt.stages import plan
from adapt.stages.checks import check_fusion
from adapt.stages.context import BATCH, Run
from adapt.stages.systems import System, fused_files, fusion_of, names_of, system_model
from adapt.text.lexicon import read_lexicon
from adapt.text.manifest import Utterance
from adapt.text.mentions import phrase_index
from adapt.text.normalise import NORMALISERS
from adapt.tune.counts import DevCounts, Judge, judges
from adapt.tune.search import ROUNDS, TunedSystem, search, search_in_turn

COMBINATIONS = (("lm",), ("boost",), ("lm", "ilm", "boost", "reward"))  # parts that are tuned together
_BAR = "{desc:<10} [{bar:20}] {n_fmt}/{total_fmt} decodings of the development set  {remaining} left"


def check_tuning(run: Run) -> None:
    """Raises RecipeError or DataError, before any stage runs, for a recipe that cannot be tuned."""
    if not run.recipe.data.dev:
        way_out = "name a manifest of the domain to tune on, other than the test set"
        raise RecipeError(f"recipe.yaml: data.dev: missing; {way_out}")
    for manifest in _manifests(run):
        run.manifests.seconds(manifest)
    check_fusion(run, [dict.fromkeys(active, 1.0) for active in _combinations(run)])


def tune(run: Run) -> None:
    """Tune the weights of each system on `data.dev`, and write `lm/tuned.json` for `adapt run`.

    If the recipe puts names or sentences into prompts, they are there while the weights are tuned. `data.source_dev`,
    if the recipe names it, is decoded too, as a guard set. Recordings longer than the base takes at once are left out.
    Raises errors as `check_tuning` does.
    """
    check_tuning(run)
    recipe = run.recipe
    settings = {
        "fusion": {"ilm_slot": recipe.fusion.ilm_slot},
        "base": plan.base_record(recipe),
        "transcribe": recipe.transcribe.search(),
        **plan.normaliser_record(recipe),
    }
    settings |= plan.in_prompt(recipe)
    prompted = bool(plan.in_prompt(recipe))
    searches = _searches(run)
    settings["searches"] = [[of, *active] for of, active in searches]
    inputs = run.manifests.files(*_manifests(run)) + run.paths(plan.ADAPTER)
    systems = [System(of, dict.fromkeys(active, 1.0), prompted) for of, active in searches]
    files = [path for system in systems for path in fused_files(run, system)]
    inputs += dict.fromkeys([*files, *([recipe.data.lexicon] if recipe.data.lexicon else [])])

    def note() -> str:
        return f"{len(read_json(run.path(plan.TUNED_WEIGHTS))['systems'])} systems on {recipe.data.dev.name}"

    run.stage("tune", settings, inputs, [plan.TUNED_WEIGHTS], lambda scratch: _tune_all(run, scratch), note)


def _manifests(run: Run) -> list[Path]:
    """The manifests that are decoded."""
    return [path for path in (run.recipe.data.dev, run.recipe.data.source_dev) if path]


def _combinations(run: Run) -> list[tuple[str, ...]]:
    """COMBINATIONS, without boosting if the recipe has no lexicon or does not boost it."""
    boosts = run.lexicon and run.recipe.transcribe.names in plan.BOOSTS
    possible = (tuple(key for key in active if key != "boost" or boosts) for active in COMBINATIONS)
    return [active for active in dict.fromkeys(possible) if active]


def _searches(run: Run) -> list[tuple[str, tuple[str, ...]]]:
    """The systems that are tuned, each with its parts."""
    searches = [(of, active) for of in ("base", "adapted") for active in _combinations(run)]
    if transcribes(run.recipe.base):
        keys = {key for active in _combinations(run) for key in active}
        searches.append(("first pass", tuple(part.key for part in PARTS if part.key in keys and part.of_texts)))
    if has_ctc(run.recipe.base) and _has_pyctcdecode():
        searches.append(("ctc", tuple(part.key for part in PARTS if part.ctc_grid)))
    return searches


def _decodings(of: str, active: Sequence[str]) -> int:
    """The most decodings of a search."""
    if of in ("base", "adapted"):
        return ROUNDS + 2
    return 1 + sum(bool(weight) for key in active for weight in _grid(of, key))


def _grid(of: str, key: str) -> tuple[float, ...]:
    """The weights of a part that are tried with the ctc system or the first pass."""
    return part_of(key).ctc_grid if of == "ctc" else (0.0, *part_of(key).grid)


def _tune_all(run: Run, scratch: Path) -> None:
    """Tune each system and write the weights. scratch: folder of the results so far, which survive a kill."""
    dev, searches, results, done = _DevSet(run), _searches(run), [], 0

    def tuned(of: str, active: Sequence[str], advance: Callable[[], object]) -> dict:
        result = scratch / f"{of}-{'-'.join(active)}.json"
        if not result.exists():
            write_json(result, dataclasses.asdict(dev.tuned(of, active, advance)))
        return read_json(result)

    with tqdm(total=sum(_decodings(*one) for one in searches), desc="tune", bar_format=_BAR) as bar:
        for of, active in searches:
            results.append(tuned(of, active, bar.update))
            done += _decodings(of, active)
            bar.update(done - bar.n)  # a search that ends early counts with all its rounds
    rows = {f"{row['of']} + {name}": row for row in results if (name := label(Weights(**row["weights"])))}
    refused = [name for name, row in rows.items() if DevCounts(**row["counts"]).refused(DevCounts(**row["base"]))]
    systems = {name: row for name, row in rows.items() if name not in refused}
    write_json(run.path(plan.TUNED_WEIGHTS), {"systems": systems, "refused": refused})


class _DevSet:
    """The utterances to tune on, and the judge of each."""

    def __init__(self, run: Run):
        self.run, recipe = run, run.recipe
        normalise = NORMALISERS[recipe.data.normaliser]
        index = phrase_index(read_lexicon(recipe.data.lexicon), normalise) if recipe.data.lexicon else None
        target, source = run.recordings("dev"), run.recordings("source_dev") if recipe.data.source_dev else []
        self.utterances: list[Utterance] = [*target, *source]
        self.judges: list[Judge] = [
            *judges(target, index, normalise),
            *judges(source, index, normalise, source=True),
        ]
        sets = ((recipe.data.dev, target), (recipe.data.source_dev, source))
        seconds = [run.manifests.seconds(path)[u.id] for path, us in sets for u in us]
        self._order = sorted(range(len(seconds)), key=seconds.__getitem__)  # batches of similar length

    def tuned(self, of: str, active: Sequence[str], advance: Callable[[], object]) -> TunedSystem:
        """Tune the parts `active` of the system `of`."""
        weights = dataclasses.asdict(Weights(**dict.fromkeys(active, 1.0)))
        system = System(of, weights, of != "ctc" and bool(plan.in_prompt(self.run.recipe)))
        llm, names = system_model(self.run, of), names_of(self.run, system)
        if of == "ctc":
            posteriors = _posteriors(llm, self.utterances)
            decode = functools.partial(self._ctc_texts, posteriors)
            return search_in_turn(decode, self.judges, {key: _grid(of, key) for key in active}, of, advance)
        fusion = fusion_of(self.run, system)
        if of == "first pass":

            def texts(weights: Weights) -> list[str]:
                rows = self._rows(first_pass_recogniser(llm, fusion.with_weights(weights), names))
                return [row["text"] for row in rows]

            return search_in_turn(texts, self.judges, {key: _grid(of, key) for key in active}, of, advance)
        settings = self.run.recipe.transcribe
        ctc_weight, beams = settings.ctc_weight if llm.has_ctc else 0.0, settings.num_beams
        options = Search(beams, settings.max_new_tokens, ctc_weight, beams, names=names, scored=True)

        def nbest(weights: Weights) -> list[list[Hypothesis]]:
            fused = dataclasses.replace(options, fusion=fusion.with_weights(weights))
            rows = self._rows(decoder_recogniser(llm, fused))
            return [_hypotheses(row["nbest"], ctc_weight) for row in rows]

        return search(nbest, self.judges, active, of, advance)

    def _rows(self, recognise: Recogniser) -> list[dict]:
        """The row of each utterance."""
        rows, size = [{}] * len(self.utterances), self.run.recipe.transcribe.batch_size
        for start in range(0, len(self._order), size):
            places = self._order[start : start + size]
            batch = [self.utterances[i] for i in places]
            found = recognise([read_audio(u.audio) for u in batch], [u.phrases for u in batch])
            for place, row in zip(places, found, strict=True):
                rows[place] = row
        return rows

    def _ctc_texts(self, posteriors: Sequence[np.ndarray], weights: Weights) -> list[str]:
        """The transcripts of the ctc system."""
        fusion = fusion_of(self.run, System("ctc", dataclasses.asdict(weights)))
        pairs = zip(posteriors, self.utterances, strict=True)
        return [fusion.decode(row, u.phrases) for row, u in pairs]


def _hypotheses(nbest: Sequence[dict], ctc_weight: float) -> list[Hypothesis]:
    """The hypotheses of a row, with the weighted CTC score in that of the decoder: the weight of CTC is not tuned."""
    if not nbest:
        return [Hypothesis("", 0, 0.0)]
    keys = [part.key for part in PARTS if part.kind != LENGTH and part.key != "ctc"]
    return [
        Hypothesis(row["text"], row["tokens"], row["model"] + ctc_weight * row["ctc"], {key: row[key] for key in keys})
        for row in nbest
    ]


def _has_pyctcdecode() -> bool:
    """Whether pyctcdecode is installed."""
    try:
        import pyctcdecode  # noqa: F401
    except ImportError:
        return False
    return True


def _posteriors(speech_llm: SpeechLLM, utterances: Sequence[Utterance]) -> list[np.ndarray]:
    """CTC log posteriors `[frames, alphabet + 1]` of each utterance."""
    samples = [read_audio(u.audio) for u in utterances]
    batches = (log_posteriors(speech_llm, samples[start : start + BATCH]) for start in range(0, len(samples), BATCH))
    return list(itertools.chain.from_iterable(batches))
