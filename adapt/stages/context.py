"""What a run has loaded: its recipe and folder, models, manifests and audio embeddings, each once."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from adapt.errors import DataError
from adapt.model.bases import TRAINED
from adapt.recipe.domain import Recipe
from adapt.run import RunFolder, StageResult
from adapt.stages.plan import PROJECTED, trained, with_audio
from adapt.text.corpus import Utterance, durations, read_manifest
from adapt.text.normalise import NORMALISERS

PERTURBED = 2  # copies of the replayed audio from which the inventory learns, beside what is there


@dataclass
class Run:
    """A recipe being run. report: called with each finished stage's result and a few words about it."""

    recipe: Recipe
    folder: RunFolder
    device: str = "auto"
    report: Callable[[StageResult, str], None] = lambda result, note: None
    _loaded: dict = field(default_factory=dict)

    def path(self, *parts: str) -> Path:
        return self.folder.path.joinpath(*parts)

    @property
    def start(self) -> str:
        """What the two stages start from: the base, or the model that `project` made of it."""
        return str(self.path(TRAINED).resolve()) if trained(self.recipe) else self.recipe.base

    def load(self, name: str):
        """A base, or `start`, of its own, to be changed."""
        from adapt.model.load import load_speech_llm

        recipe = self.recipe
        bits = None if recipe.quantise == "none" else int(recipe.quantise[0])
        return load_speech_llm(name, self.device, dtype=recipe.dtype, quantise=bits, language=recipe.language)

    def speech_llm(self, name: str | None = None):
        """The base, or `start`, loaded once for the stages that leave it as it is."""
        name = name or self.recipe.base
        if name not in self._loaded:
            self._loaded[name] = self.load(name)
            self.folder.device = str(self._loaded[name].device)
        return self._loaded[name]

    def prompted(self, speech_llm):
        """`start` behind the prompt that was learned for it, if the recipe has one learned."""
        from adapt.model import learned_prompt

        if self.recipe.project.method == "none" or trained(self.recipe):  # there it lies beside the weights
            return speech_llm
        return learned_prompt.with_learned(
            speech_llm, learned_prompt.load_learned_prompt(self.path(PROJECTED), speech_llm)
        )

    def replay(self, key: str):
        """Audio embeddings and targets of a manifest of paired audio; None when the recipe names none."""
        from adapt.train.common import PairedAudio

        if not getattr(self.recipe.data, key):
            return None
        if key not in self._loaded:
            utterances, llm = self.recordings(key), self.speech_llm(self.start)
            self._loaded[key] = PairedAudio(self.targets(utterances, llm), self.slots(utterances, llm))
        return self._loaded[key]

    def recordings(self, key: str) -> list[Utterance]:
        """Those of a manifest that the base takes at once: of what would be cut, no part has a transcript of its own.

        Raises DataError where none is left.
        """
        if (kept := self._loaded.get((key, "recordings"))) is None:
            manifest, longest = getattr(self.recipe.data, key), self.speech_llm().max_seconds
            utterances = with_audio(read_manifest(manifest))
            seconds = durations(utterances)
            kept = [u for u in utterances if seconds[u.id] <= longest]
            if not kept:
                raise DataError(f"{manifest}: all of it is longer than the {longest:g} s that the base takes; cut it")
            if left_out := len(utterances) - len(kept):
                told = f"{left_out} of {manifest.name} left out, longer than the {longest:g} s that the base takes"
                tqdm.write(told, file=sys.stderr)
            self._loaded[key, "recordings"] = kept
        return kept

    def targets(self, utterances: Sequence[Utterance], llm) -> list[list[int]]:
        """Token ids of the transcripts, normalised, for a speech LLM."""
        normalise = NORMALISERS[self.recipe.data.normaliser]
        return [llm.target_ids(normalise(u.text)) for u in utterances]

    def slots(self, utterances: Sequence[Utterance], llm) -> list:
        """What each utterance puts into the slot of a speech LLM."""
        from adapt.model.features import read_audio

        slots = []
        for start in range(0, len(utterances), 16):
            slots += llm.audio_embeddings([read_audio(u.audio) for u in utterances[start : start + 16]])
        return slots

    def inventory(self):
        """How the base hears letters, learned from the replayed source audio; None without it."""
        from adapt.model.features import read_audio
        from adapt.train.perturb import perturbed
        from adapt.train.unit_selection import build_inventory

        if not self.recipe.data.source_replay:
            return None
        llm, normalise = self.speech_llm(self.start), NORMALISERS[self.recipe.data.normaliser]
        alphabet = llm.model.config.alphabet
        utterances = self.recordings("source_replay")

        def heard():
            for start in range(0, len(utterances), 16):
                batch = utterances[start : start + 16]
                audio = [read_audio(u.audio) for u in batch]
                said = ["".join(c for c in normalise(u.text) if c in alphabet) for u in batch]
                for copy in range(1 + PERTURBED):
                    seed = copy * len(utterances) + start
                    paths, slots = llm.ctc_paths(audio, functools.partial(perturbed, seed=seed) if copy else None)
                    yield from zip(paths, said, slots, strict=True)

        return build_inventory(heard(), llm.model.config.stack)
