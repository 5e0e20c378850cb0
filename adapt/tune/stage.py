"""Stage `tune`: tune the weights of each system on the development set, and write them to `lm/tuned.json`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from adapt.decode.beam_search import generate
from adapt.decode.ctc import log_posteriors
from adapt.decode.fusion import Fusion
from adapt.decode.hypothesis import Hypothesis
from adapt.decode.parts import Batch, label, part_of
from adapt.decode.weights import Weights
from adapt.errors import RecipeError
from adapt.model.bases import has_ctc
from adapt.model.features import read_audio
from adapt.model.speech_llm import SpeechLLM
from adapt.recipe.domain import Transcribe
from adapt.run import read_json, write_json
from adapt.stages import plan
from adapt.stages.checks import check_fusion
from adapt.stages.context import BATCH, Run
from adapt.stages.systems import System, fused_files, fusion_of
from adapt.text.lexicon import read_lexicon
from adapt.text.manifest import Utterance
from adapt.text.mentions import phrase_index
from adapt.text.normalise import NORMALISERS
from adapt.tune.counts import DevCounts, Judge, judges
from adapt.tune.search import ROUNDS, TunedSystem, ctc_parts, search, search_ctc

COMBINATIONS = (("lm",), ("boost",), ("lm", "ilm", "boost", "reward"))  # parts that are tuned together
_BAR = "{desc:<10} [{bar:20}] {n_fmt}/{total_fmt} decodings of the development set  {remaining} left"


def check_tuning(run: Run) -> None:
    """Raises RecipeError or DataError, before any stage runs, for a recipe that cannot be tuned."""
    if not run.recipe.data.dev:
        way_out = "name a manifest of the domain to tune on, other than the test set"
        raise RecipeError(f"recipe.yaml: data.dev: missing; {way_out}")
    check_fusion(run, [dict.fromkeys(active, 1.0) for active in _combinations(run)])


def tune(run: Run) -> None:
    """Tune the weights of the base, adapted and ctc systems on `data.dev`, and write `lm/tuned.json` for `adapt run`.

    `data.source_dev`, if the recipe names it, is decoded too, as a guard set. Recordings longer than the base takes at
    once are left out. Raises errors as `check` does.
    """
    check_tuning(run)
    recipe = run.recipe
    settings = {
        "fusion": {"ilm_slot": recipe.fusion.ilm_slot},
        "base": plan.base_record(recipe),
        "transcribe": recipe.transcribe.search(),
        **plan.normaliser_record(recipe),
    }
    inputs = run.manifests.files(*_manifests(run)) + run.paths(plan.ADAPTER)
    inputs += fused_files(run, System("adapted", dict.fromkeys(COMBINATIONS[-1], 1.0)))
    inputs += fused_files(run, System("ctc", {"lm": 1.0}))

    def note() -> str:
        return f"{len(read_json(run.path(plan.TUNED_WEIGHTS))['systems'])} systems on {recipe.data.dev.name}"

    run.stage("tune", settings, inputs, [plan.TUNED_WEIGHTS], lambda scratch: _tune_all(run, scratch), note)


def _manifests(run: Run) -> list[Path]:
    """The manifests that are decoded."""
    return [path for path in (run.recipe.data.dev, run.recipe.data.source_dev) if path]


def _combinations(run: Run) -> list[tuple[str, ...]]:
    """COMBINATIONS without boosting if the recipe has no lexicon."""
    lexicon = run.recipe.data.lexicon
    possible = (tuple(key for key in active if key != "boost" or lexicon) for active in COMBINATIONS)
    return [active for active in dict.fromkeys(possible) if active]


def _tune_all(run: Run, scratch: Path) -> None:
    """Tune each system and write the weights. scratch: folder of the results so far, which survive a kill."""
    dev = _DevSet(run)
    searches = [(of, active) for of in ("base", "adapted") for active in _combinations(run)]
    ctc = tuple(ctc_parts()) if has_ctc(run.recipe.base) and _has_pyctcdecode() else ()
    ctc_decodings = 1 + sum(bool(weight) for key in ctc for weight in part_of(key).ctc_grid) if ctc else 0

    def tuned(of: str, active: Sequence[str], advance: Callable[[], object]) -> dict:
        result = scratch / f"{of}-{'-'.join(active)}.json"
        if not result.exists():
            write_json(result, dataclasses.asdict(dev.tuned(of, active, advance)))
        return read_json(result)

    results = []
    with tqdm(total=len(searches) * (ROUNDS + 2) + ctc_decodings, desc="tune", bar_format=_BAR) as bar:
        for i, (of, active) in enumerate(searches):
            results.append(tuned(of, active, bar.update))
            bar.update((i + 1) * (ROUNDS + 2) - bar.n)  # a search that ends early counts with all its rounds
        if ctc:
            results.append(tuned("ctc", ctc, bar.update))
    rows = {f"{row['of']} + {name}": row for row in results if (name := label(Weights(**row["weights"])))}
    refused = [name for name, row in rows.items() if DevCounts(**row["counts"]).refused(DevCounts(**row["base"]))]
    systems = {name: row for name, row in rows.items() if name not in refused}
    write_json(run.path(plan.TUNED_WEIGHTS), {"systems": systems, "refused": refused})


class _DevSet:
    """The utterances to tune on, with their audio embeddings and CTC posteriors, which are computed once."""

    def __init__(self, run: Run):
        self.run, recipe = run, run.recipe
        normalise = NORMALISERS[recipe.data.normaliser]
        index = phrase_index(read_lexicon(recipe.data.lexicon), normalise) if recipe.data.lexicon else None
        self.utterances: list[Utterance] = list(run.recordings("dev"))
        self.judges: list[Judge] = judges(self.utterances, index, normalise)
        if recipe.data.source_dev:
            source = run.recordings("source_dev")
            self.judges += judges(source, index, normalise, source=True)
            self.utterances += source
        self._model_of = {"base": recipe.base, "ctc": recipe.base, "adapted": run.start}
        names = {recipe.base, run.start}
        self._slots = {name: run.audio_embeddings(self.utterances, run.speech_llm(name)) for name in names}
        ctc = has_ctc(recipe.base)
        self._posteriors = {name: _posteriors(run.speech_llm(name), self.utterances) if ctc else [] for name in names}

    def tuned(self, of: str, active: Sequence[str], advance: Callable[[], object]) -> TunedSystem:
        """Tune the parts `active` of the system `of`."""
        if of == "ctc":
            return search_ctc(self._decode_ctc, self.judges, advance)
        fusion = fusion_of(self.run, System(of, dataclasses.asdict(Weights(**dict.fromkeys(active, 1.0)))))
        name = self._model_of[of]
        decoding = _Decoding(
            fusion, self.run.recipe.transcribe, self.utterances, self._slots[name], self._posteriors[name]
        )
        return search(decoding.nbest, self.judges, active, of, advance)

    def _decode_ctc(self, weights: Weights) -> list[str]:
        """The transcripts of the ctc system."""
        fusion = fusion_of(self.run, System("ctc", dataclasses.asdict(weights)))
        rows = zip(self._posteriors[self._model_of["ctc"]], self.utterances, strict=True)
        return [fusion.decode(posteriors, u.phrases) for posteriors, u in rows]


class _Decoding:
    """Decodes the utterances to tune on with any weights of one system.

    slots: audio embeddings `[slots, hidden]` of each utterance. posteriors: CTC log posteriors of each; [] without CTC.
    """

    def __init__(
        self,
        fusion: Fusion,
        settings: Transcribe,
        utterances: Sequence[Utterance],
        slots: Sequence[torch.Tensor],
        posteriors: Sequence[np.ndarray],
    ):
        self._fusion, self._settings, self._utterances = fusion, settings, utterances
        self._prompts, self._posteriors = [fusion.speech_llm.prompt(slot) for slot in slots], posteriors
        self._ctc_weight = settings.ctc_weight if posteriors else 0.0
        self._order = sorted(range(len(slots)), key=lambda i: len(slots[i]))  # batches of similar length

    def nbest(self, weights: Weights) -> list[list[Hypothesis]]:
        """The `num_beams` best hypotheses of each utterance."""
        fusion = self._fusion.with_weights(dataclasses.replace(weights, ctc=self._ctc_weight))
        nbest: list[list[Hypothesis]] = [[] for _ in self._utterances]
        for start in range(0, len(self._order), self._settings.batch_size):
            places = self._order[start : start + self._settings.batch_size]
            for place, hypotheses in zip(places, self._nbest_of(fusion, places), strict=True):
                nbest[place] = [self._without_ctc(hypothesis) for hypothesis in hypotheses]
        return nbest

    def _nbest_of(self, fusion: Fusion, places: Sequence[int]) -> list[list[Hypothesis]]:
        """The hypotheses of one batch."""
        llm, beams = fusion.speech_llm, self._settings.num_beams
        posteriors = [torch.from_numpy(self._posteriors[i]).to(llm.device) for i in places] if self._ctc_weight else []
        batch = Batch([self._utterances[i].phrases for i in places], posteriors)
        prompts = [self._prompts[i] for i in places]
        nbest = generate(llm, prompts, beams, self._settings.max_new_tokens, fusion.processors(batch), beams)
        return fusion.score_hypotheses(prompts, nbest, batch)

    def _without_ctc(self, hypothesis: Hypothesis) -> Hypothesis:
        """The hypothesis with its weighted CTC score added to that of the decoder: the weight of CTC is not tuned."""
        ctc = hypothesis.totals.get("ctc", 0.0)
        totals = {key: value for key, value in hypothesis.totals.items() if key != "ctc"}
        return dataclasses.replace(hypothesis, model=hypothesis.model + self._ctc_weight * ctc, totals=totals)


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
