"""A run: its recipe and folder, and the manifests, models and audio embeddings that it loads, each once."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from adapt.errors import DataError, RecipeError
from adapt.model.bases import fingerprint
from adapt.recipe.choices import QUANTISE_BITS
from adapt.recipe.domain import Recipe
from adapt.run import RunFolder, StageResult
from adapt.stages import plan
from adapt.stages.manifests import Manifests
from adapt.stages.plan import ADAPTER, LEARNED_PROMPT, TERMS, TRAINED_BASE, finds_terms, projected, trained_parts
from adapt.text.manifest import Utterance
from adapt.text.normalise import NORMALISERS

if TYPE_CHECKING:  # torch is loaded by the stages that need a model
    import torch

    from adapt.model.heard_folder import HeardFolder
    from adapt.model.speech_llm import SpeechLLM
    from adapt.train.common import PairedAudio

BATCH = 16  # recordings in a batch of the encoder


@dataclass
class Run:
    """A run of a recipe.

    device: as in `load_speech_llm`. report: called with the result of each stage and a note about it. heard: the folder
    of what the base heard of recordings (`HeardFolder`); None: `heard` in the run folder.
    """

    recipe: Recipe
    folder: RunFolder
    device: str = "auto"
    report: Callable[[StageResult, str], None] = lambda result, note: None
    manifests: Manifests = field(default_factory=Manifests)
    heard: Path | None = None
    _models: dict[str, SpeechLLM] = field(default_factory=dict)
    _adapted: SpeechLLM | None = None
    _recordings: dict[str, list[Utterance]] = field(default_factory=dict)
    _source_audio: dict[str, PairedAudio] = field(default_factory=dict)
    _alone: str | None = None  # the stage that this process does alone

    def path(self, *parts: str) -> Path:
        """A path in the run folder."""
        return self.folder.path.joinpath(*parts)

    def paths(self, *names: str | None) -> list[Path]:
        """Paths in the run folder, without those that are None."""
        return [self.path(name) for name in names if name]

    def stage(
        self,
        name: str,
        settings: dict,
        inputs: Sequence[Path],
        outputs: Sequence[str],
        work: Callable[[Path], None],
        note: Callable[[], str],
        shared: bool = False,
    ) -> None:
        """Run a stage (`RunFolder.stage`) and report it. note: returns a few words on its outputs."""
        self._alone = None if shared else name
        result = self.folder.stage(name, settings, inputs, outputs, work, shared)
        self.report(result, note())

    def lines(self, name: str) -> list[str]:
        """The lines of a text file in the run folder."""
        return self.path(name).read_text(encoding="utf-8").splitlines()

    @property
    def lexicon(self) -> Path | None:
        """The names for prompts and boosting: the lexicon of the recipe or, in its place, the terms of the text."""
        return self.path(TERMS) if finds_terms(self.recipe) else self.recipe.data.lexicon

    @property
    def start(self) -> str:
        """Name of the model that both stages start from: the base, or the folder of the model that `project` wrote."""
        return str(self.path(TRAINED_BASE).resolve()) if trained_parts(self.recipe) else self.recipe.base

    def fresh_speech_llm(self, name: str, exact: bool = False) -> SpeechLLM:
        """A newly loaded model, which the caller may change.

        exact: for a model that will be saved: `dtype: auto` is fp32 on a CPU, which holds saved weights exactly. Raises
        RecipeError for the device `shard` in a stage that one process does alone: it would wait for the others.
        """
        from adapt.model.load import device_of, load_speech_llm

        if self.device == "shard" and self._alone:
            problem = f"device: 'shard' divides the base among processes, but one does the stage {self._alone} alone"
            raise RecipeError(f"{problem}; run this stage first, with another device")
        recipe = self.recipe
        bits = QUANTISE_BITS[recipe.quantise]
        fp32 = exact and recipe.dtype == "auto" and device_of(self.device) == "cpu"
        dtype = "fp32" if fp32 else recipe.dtype
        return load_speech_llm(name, self.device, dtype=dtype, quantise=bits, language=recipe.language)

    def speech_llm(self, name: str | None = None) -> SpeechLLM:
        """A model that no caller may change, loaded once. name: None: the base."""
        name = name or self.recipe.base
        if name not in self._models:
            self._models[name] = self.fresh_speech_llm(name)
            self._models[name].heard = self._heard(name, self._models[name])
            self.folder.device = str(self._models[name].device)
        return self._models[name]

    def prompted(self, speech_llm: SpeechLLM) -> SpeechLLM:
        """The model `start` with the prompt that `project` learned; unchanged if it learned none."""
        from adapt.model.learned_prompt import load_learned_prompt, with_learned

        if projected(self.recipe) != LEARNED_PROMPT:  # with trained weights, the prompt is in the folder of the model
            return speech_llm
        return with_learned(speech_llm, load_learned_prompt(self.path(LEARNED_PROMPT), speech_llm))

    def adapted(self) -> SpeechLLM:
        """The model `start` with the adapter of this run, loaded once."""
        from adapt.model.adapter import attach

        if self._adapted is None:
            self._adapted = attach(self.fresh_speech_llm(self.start), self.path(ADAPTER))
            self._adapted.heard = self._heard(self.start, self._adapted)  # an adapter changes the decoder alone
        return self._adapted

    def _heard(self, name: str, speech_llm: SpeechLLM) -> HeardFolder:
        """The folder of what a model of this name heard, for all systems and later commands."""
        from adapt.model.heard_folder import HeardFolder

        recipe = self.recipe
        base = [fingerprint(name), recipe.dtype, recipe.quantise, recipe.language, str(speech_llm.device)]
        return HeardFolder(self.heard or self.path("heard"), base)

    def recordings(self, key: str) -> list[Utterance]:
        """The utterances of a manifest (`key` of the data section) that the base takes at once.

        Longer ones are left out and reported, because their parts have no transcripts. Raises DataError if none
        remains.
        """
        if key not in self._recordings:
            manifest, longest = getattr(self.recipe.data, key), self.speech_llm().max_seconds
            utterances, seconds = self.manifests.spoken(manifest), self.manifests.seconds(manifest)
            short_enough = [u for u in utterances if seconds[u.id] <= longest]
            if not short_enough:
                problem = f"every recording is longer than the {longest:g} s that the base takes; cut them"
                raise DataError(f"{manifest}: {problem}")
            if left_out := len(utterances) - len(short_enough):
                counted = f"{left_out} of {len(utterances)} recordings left out"
                reason = f"longer than the {longest:g} s that the base takes"
                tqdm.write(f"{manifest.name}: {counted}, {reason}", file=sys.stderr)
            self._recordings[key] = short_enough
        return self._recordings[key]

    def transcribed(self, key: str) -> list[Utterance]:
        """The `recordings` with normalised transcripts that the base can write.

        Others are left out and reported. Raises DataError if none remains.
        """
        utterances, normalise = self.recordings(key), NORMALISERS[self.recipe.data.normaliser]
        written = plan.written(self.recipe, [normalise(u.text) for u in utterances])
        if remark := written.remark():
            tqdm.write(f"data.{key}: {remark}; {plan.WRITE}", file=sys.stderr)
        if not written.kept:
            raise DataError(f"data.{key}: the base can write none of the transcripts; {plan.WRITE}")
        pairs = zip(utterances, written.texts, strict=True)
        return [dataclasses.replace(utterance, text=text) for utterance, text in pairs if text is not None]

    def audio_embeddings(self, utterances: Sequence[Utterance], speech_llm: SpeechLLM) -> list[torch.Tensor]:
        """The audio embeddings `[slots, hidden]` of each utterance."""
        from adapt.model.features import read_audio
        from adapt.model.heard import embeddings_and_heard

        embeddings, hidden = [], not self.folder.ranks.is_first
        form = "{desc:<10} [{bar:20}] {percentage:3.0f}%  {n_fmt}/{total_fmt} recordings  {remaining} left"
        with tqdm(total=len(utterances), desc="hearing", bar_format=form, leave=False, disable=hidden) as bar:
            for start in range(0, len(utterances), BATCH):
                batch = [read_audio(u.audio) for u in utterances[start : start + BATCH]]
                embeddings += embeddings_and_heard(speech_llm, batch)[0]
                bar.update(len(batch))
        return embeddings

    def source_audio(self, key: str) -> PairedAudio | None:
        """Audio embeddings and targets of `data.source_replay` or `data.source_dev`; None without that key."""
        from adapt.train.common import PairedAudio

        if not getattr(self.recipe.data, key):
            return None
        if key not in self._source_audio:
            utterances, speech_llm = self.transcribed(key), self.speech_llm(self.start)
            embeddings = self.audio_embeddings(utterances, speech_llm)
            self._source_audio[key] = PairedAudio([speech_llm.target_ids(u.text) for u in utterances], embeddings)
        return self._source_audio[key]
