"""The stages of a recipe in order, each over a run folder: text, prompt, decoder, lm, transcribe, score.

A stage reads files and writes files; `RunFolder` skips it when nothing that it reads has changed.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from adapt.errors import DataError
from adapt.model.bases import TRAINED, fingerprint, has_ctc
from adapt.recipe import Recipe, dump
from adapt.run import RunFolder, StageResult, read_json, write_json, write_text
from adapt.text.corpus import Corpus, Utterance, durations, prepare, read_hypotheses, read_manifest, read_text
from adapt.text.lexicon import Entry, Lexicon, entities_in, phrase_index, read_lexicon
from adapt.text.normalise import NORMALISERS
from adapt.text.swap import swap_entities
from adapt.text.template import parse, read_template

NEEDS_SOFT_PROMPT = ("soft-prompt", "soft-prompt+simulate", "mixed")
SIMULATES = ("simulate", "soft-prompt+simulate", "mixed")
PERTURBED = 2  # copies of the replayed audio from which the channel learns, beside what is there
SYSTEMS = ("base", "ctc", "projected", "adapted")  # ctc: the encoder's own path, which adapting leaves as it is
NGRAMS = ("lm", "source")  # weights of what the stage lm makes
SOFT_PROMPT = "prompt/soft_prompt.safetensors"
PROJECTED = "project/prompt.safetensors"
HELD = 10  # of the paired utterances one in so many is kept for development
TUNED = "lm/tuned.json"  # what `adapt tune` writes
SETS = {"target": "test", "dev": "dev", "source": "source_test"}  # set -> key of the recipe's data section
SCORED = ("target", "source")


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
        from adapt.model.load import load

        recipe = self.recipe
        bits = None if recipe.quantise == "none" else int(recipe.quantise[0])
        return load(name, self.device, dtype=recipe.dtype, quantise=bits, language=recipe.language)

    def speech_llm(self, name: str | None = None):
        """The base, or `start`, loaded once for the stages that leave it as it is."""
        name = name or self.recipe.base
        if name not in self._loaded:
            self._loaded[name] = self.load(name)
            self.folder.device = str(self._loaded[name].device)
        return self._loaded[name]

    def prompted(self, speech_llm):
        """`start` behind the prompt that was learned for it, if the recipe has one learned."""
        from adapt.model import learned

        if self.recipe.project.method == "none" or trained(self.recipe):  # there it lies beside the weights
            return speech_llm
        return learned.with_learned(speech_llm, learned.load(self.path(PROJECTED), speech_llm))

    def replay(self, key: str):
        """Slot vectors and targets of a manifest of paired audio; None when the recipe names none."""
        from adapt.train.stages import Replay

        if not getattr(self.recipe.data, key):
            return None
        if key not in self._loaded:
            utterances, llm = self.recordings(key), self.speech_llm(self.start)
            self._loaded[key] = Replay(self.slots(utterances, llm), self.targets(utterances, llm))
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
            slots += llm.slot_vectors([read_audio(u.audio) for u in utterances[start : start + 16]])
        return slots

    def channel(self):
        """How the base hears letters, learned from the replayed source audio; None without it."""
        from adapt.model.features import read_audio
        from adapt.train.channel import learn
        from adapt.train.perturb import perturbed

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
                    paths, slots = llm.heard(audio, functools.partial(perturbed, seed=seed) if copy else None)
                    yield from zip(paths, said, slots, strict=True)

        return learn(heard(), llm.model.config.stack)


def with_audio(utterances: list[Utterance]) -> list[Utterance]:
    if missing := [u.id for u in utterances if u.audio is None]:
        raise DataError(f"utterance {missing[0]!r}: has no audio; give its 'audio' in the manifest")
    return utterances


def base_of(recipe: Recipe) -> dict[str, str]:
    """What a run records of its base: its name, a hash of it, and how it is loaded where that is not the default."""
    defaults = {f.name: f.default for f in dataclasses.fields(Recipe)}
    ways = {key: getattr(recipe, key) for key in ("dtype", "quantise", "language")}
    known = {"name": recipe.base, "sha": fingerprint(recipe.base)}
    return known | {key: value for key, value in ways.items() if value != defaults[key]}


def _reading(recipe: Recipe) -> dict[str, dict]:
    """How transcripts and names are read, for the record of a stage that reads some beside the text."""
    return {"data": {"normaliser": recipe.data.normaliser}}


def sets_of(recipe: Recipe) -> dict[str, Path]:
    """Set name -> manifest of each set that the recipe names."""
    return {name: path for name, key in SETS.items() if (path := getattr(recipe.data, key))}


def scored(recipe: Recipe) -> dict[str, Path]:
    """Those of the sets that are transcribed and scored: the development set is not, it is for `adapt tune`."""
    return {name: path for name, path in sets_of(recipe).items() if name in SCORED}


def corpus_of(recipe: Recipe) -> Corpus:
    """The domain text, normalised, without duplicates and without sentences of the scored sets."""
    normalise = NORMALISERS[recipe.data.normaliser]
    return prepare(read_text(recipe.data.text), normalise, _held_out(recipe), recipe.data.dev_lines, recipe.seed)


def _held_out(recipe: Recipe) -> list[str]:
    return [u.text for path in sets_of(recipe).values() for u in read_manifest(path, need_audio=False)]


def text(run: Run) -> StageResult:
    """Normalise, drop duplicates and leaks, set lines aside, add copies for the entities of the lexicon."""
    recipe, normalise = run.recipe, NORMALISERS[run.recipe.data.normaliser]
    outputs = ["text/train.txt", "text/dev.txt", "text/leaks.txt", "text/copies.txt"]

    def work(scratch: Path) -> None:
        corpus, copies = corpus_of(recipe), []
        if recipe.data.lexicon:
            lexicon = read_lexicon(recipe.data.lexicon)
            copies = swap_entities(corpus.train, lexicon, normalise, recipe.data.entity_copies, recipe.seed)
        held_out = {normalise(text) for text in _held_out(recipe)}
        copies = [line for line in copies if line not in held_out]
        for name, lines in zip(outputs, (corpus.train, corpus.dev, corpus.leaks, copies), strict=True):
            write_text(run.path(name), "".join(line + "\n" for line in lines))

    keys = ("normaliser", "dev_lines", "entity_copies")
    settings = {"data": {key: getattr(recipe.data, key) for key in keys}, "seed": recipe.seed}
    inputs = [recipe.data.text, *sets_of(recipe).values()]
    inputs += [recipe.data.lexicon] if recipe.data.lexicon else []
    result = run.folder.stage("text", settings, inputs, outputs, work)
    train, dev, copies = (_lines(run.path(outputs[i])) for i in (0, 1, 3))
    run.report(result, f"{len(train):,} train, {len(copies):,} copies with other entities, {len(dev):,} dev")
    return result


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _training_text(run: Run) -> list[str]:
    return _lines(run.path("text/train.txt")) + _lines(run.path("text/copies.txt"))


def audio_of(*manifests: Path | None) -> list[Path]:
    """The audio files that the manifests name."""
    return [u.audio for path in manifests if path for u in read_manifest(path) if u.audio]


def pseudo_audio_of(recipe: Recipe) -> str:
    """What stands in the slot, where the recipe leaves it to the base too.

    Raises `DataError` for slots to be simulated of a base without a CTC head.
    """
    chosen, ctc = recipe.decoder.pseudo_audio, has_ctc(recipe.base)
    if chosen in SIMULATES and not ctc:
        told = f"{chosen!r} simulates what a CTC head hears, and {recipe.base} has none"
        raise DataError(f"recipe.yaml: decoder.pseudo_audio: {told}; take soft-prompt")
    return chosen if chosen != "auto" else "simulate" if ctc else "soft-prompt"


def learns_soft_prompt(recipe: Recipe) -> bool:
    """Whether one stands in the slot of the decoder that is tuned, or of the one that is asked for its internal LM."""
    return pseudo_audio_of(recipe) in NEEDS_SOFT_PROMPT or recipe.fusion.ilm_slot == "soft-prompt"


def template_of(recipe: Recipe) -> str:
    """The template of the prompt that is learned."""
    return read_template(recipe.project.template, recipe.folder)


def trained(recipe: Recipe) -> list[str]:
    """The parts of the base that `project` trains. Raises `DataError` for what makes no sense together."""
    parts = [part for part in ("encoder", "projector", "llm") if getattr(recipe.project, part) != "frozen"]
    if "encoder" in parts and "projector" not in parts:
        told = "its frozen projector maps what the encoder says now, and would be wrong; train project.projector too"
        raise DataError(f"recipe.yaml: project.encoder: {told}")
    if parts and recipe.quantise != "none":
        told = f"cannot be changed and written again in {recipe.quantise}; leave out quantise, or keep it frozen"
        raise DataError(f"recipe.yaml: project.{parts[0]}: {told}")
    return parts


def projects(recipe: Recipe) -> bool:
    """Is there anything to learn from paired audio?"""
    return bool(recipe.project.method != "none" or trained(recipe))


def paired(run: Run, llm, as_samples: bool = False):
    """Targets for a speech LLM, and slot vectors or samples, of the paired audio: to train, and for development."""
    from adapt.model.features import read_audio
    from adapt.train.base import ctc_ids
    from adapt.train.project import Pairs

    if not run.recipe.data.paired:
        raise DataError("recipe.yaml: data.paired: missing; name a manifest of paired audio to learn from")
    utterances = run.recordings("paired")
    if len(utterances) < HELD:
        raise DataError(f"{run.recipe.data.paired}: {len(utterances)} utterances; give at least {HELD}")

    def pairs(utterances: list[Utterance]) -> Pairs:
        targets = run.targets(utterances, llm)
        if not as_samples:
            return Pairs(targets, slots=run.slots(utterances, llm))
        normalise = NORMALISERS[run.recipe.data.normaliser]
        letters = [ctc_ids(normalise(u.text), llm.model.config.alphabet) for u in utterances] if llm.has_ctc else ()
        return Pairs(targets, samples=[read_audio(u.audio) for u in utterances], letters=letters)

    held = utterances[::HELD]
    return pairs([u for i, u in enumerate(utterances) if i % HELD]), pairs(held)


def project(run: Run) -> StageResult:
    """From paired audio, the prompt around the slot: `project/prompt.safetensors`; or more: `project/model`."""
    recipe, settings, parts = run.recipe, run.recipe.project, trained(run.recipe)
    made = TRAINED if parts else PROJECTED

    def work(scratch: Path) -> None:
        import torch

        from adapt.model.learned import LearnedPrompt, ids_around
        from adapt.train.project import AUDIO_PARTS, learn, ready

        llm, learned = run.load(recipe.base) if parts else run.speech_llm(), None
        ready(llm, parts)
        ids_around(parse(template_of(recipe)), llm)
        train, dev = paired(run, llm, as_samples=any(part in AUDIO_PARTS for part in parts))
        torch.manual_seed(recipe.seed)
        if settings.method != "none":
            examples = train.slots[:50] or llm.slot_vectors(train.samples[:50])
            more = {"init": settings.init, "size": settings.size, "examples": examples}
            learned = LearnedPrompt(llm, template_of(recipe), settings.method, **more)
        names = ("steps", "batch_size", "learning_rate", "eval_every", "weights_rate")
        given = {key: getattr(settings, key) for key in names} | {"seed": recipe.seed, "precision": recipe.precision}
        given |= {"parts": parts, "rank": recipe.decoder.rank, "alpha": recipe.decoder.alpha}
        making = scratch / "made"  # a folder that is half written is never taken for the model
        making.unlink() if making.is_file() else shutil.rmtree(making, ignore_errors=True)
        tuned = learn(llm, learned, train, dev, folder=scratch, out=making, **given)
        shutil.rmtree(run.path("project"), ignore_errors=True)
        run.path("project").mkdir()
        making.replace(run.path(made))
        fingerprint.cache_clear()
        about = {"base": recipe.base, "parts": parts}
        write_json(run.path("project/log.json"), dataclasses.asdict(tuned) | about)

    heeded = dataclasses.asdict(settings) | {"template": template_of(recipe)}
    if settings.method == "none":
        heeded = {key: v for key, v in heeded.items() if key not in ("template", "init", "size", "learning_rate")}
    if not parts:
        heeded = {key: v for key, v in heeded.items() if key not in ("encoder", "projector", "llm", "weights_rate")}
    keys = {"project": heeded, "base": base_of(recipe)}
    keys |= {"seed": recipe.seed, "precision": recipe.precision, **_reading(recipe)}
    keys |= {"lora": {"rank": recipe.decoder.rank, "alpha": recipe.decoder.alpha}} if "llm" in parts else {}
    parse(template_of(recipe))  # now, not when all audio has been through the encoder
    inputs = [p for p in (recipe.data.paired,) if p] + audio_of(recipe.data.paired)
    result = run.folder.stage("project", keys, inputs, [made, "project/log.json"], work)
    run.report(result, _best(run.path("project/log.json")))
    return result


def _projected(run: Run) -> list[Path]:
    """What `project` makes, if the recipe has it."""
    return [run.path(TRAINED if trained(run.recipe) else PROJECTED)] if projects(run.recipe) else []


def prompt(run: Run) -> StageResult:
    """Stage 1: the soft prompt learns the domain text, everything else frozen: `prompt/soft_prompt.safetensors`."""
    recipe = run.recipe

    def work(scratch: Path) -> None:
        from adapt.model.prompt import load, save, slot_examples
        from adapt.train.stages import learn_prompt

        if recipe.prompt.start:
            vectors = load(recipe.prompt.start, run.speech_llm())
            save(run.path(SOFT_PROMPT), vectors)
            write_json(run.path("prompt/log.json"), {"log": [], "best_step": 0})
            return
        replayed = run.replay("source_replay")
        llm = run.prompted(run.speech_llm(run.start))
        heard = recipe.prompt.init in ("audio", "stats")
        examples = slot_examples(llm, replayed.slots if replayed else ()) if heard else ()
        tuned = learn_prompt(
            llm,
            _training_text(run),
            _lines(run.path("text/dev.txt")),
            examples=examples,
            folder=scratch,
            out=run.path(SOFT_PROMPT),
            seed=recipe.seed,
            precision=recipe.precision,
            **{key: value for key, value in dataclasses.asdict(recipe.prompt).items() if key != "start"},
        )
        write_json(run.path("prompt/log.json"), dataclasses.asdict(tuned))

    settings = {
        "prompt": {k: v for k, v in dataclasses.asdict(recipe.prompt).items() if k != "start"},
        "base": base_of(recipe),
        "seed": recipe.seed,
        "precision": recipe.precision,
    }
    inputs = [run.path("text", f"{name}.txt") for name in ("train", "copies", "dev")]
    inputs += [p for p in (recipe.data.source_replay, recipe.prompt.start) if p] + audio_of(recipe.data.source_replay)
    inputs += _projected(run)
    outputs = [SOFT_PROMPT, "prompt/log.json"]
    result = run.folder.stage("prompt", settings, inputs, outputs, work)
    run.report(result, _best(run.path("prompt/log.json")))
    return result


def decoder(run: Run) -> StageResult:
    """Stage 2: LoRA on the decoder, conditioned on pseudo audio: `adapter/`."""
    recipe = run.recipe
    settings_of = dataclasses.replace(recipe.decoder, pseudo_audio=pseudo_audio_of(recipe))
    needs_prompt = settings_of.pseudo_audio in NEEDS_SOFT_PROMPT

    def work(scratch: Path) -> None:
        from adapt.model import prompt as prompts
        from adapt.train.stages import tune_decoder

        replayed, guard = run.replay("source_replay"), run.replay("source_dev")
        llm = run.prompted(run.load(run.start))
        vectors = prompts.load(run.path(SOFT_PROMPT), llm) if needs_prompt else None
        shutil.rmtree(run.path("adapter"), ignore_errors=True)
        tuned = tune_decoder(
            llm,
            _training_text(run),
            _lines(run.path("text/dev.txt")),
            soft_prompt=vectors,
            channel=run.channel() if settings_of.pseudo_audio in SIMULATES else None,
            replayed=replayed,
            guard=guard,
            folder=scratch,
            out=run.path("adapter"),
            name=recipe.name,
            seed=recipe.seed,
            precision=recipe.precision,
            **dataclasses.asdict(settings_of),
        )
        write_json(run.path("decoder/log.json"), dataclasses.asdict(tuned))

    settings = {
        **_reading(recipe),
        "decoder": dataclasses.asdict(settings_of),
        "base": base_of(recipe),
        "seed": recipe.seed,
        "precision": recipe.precision,
    }
    sources = [p for p in (recipe.data.source_replay, recipe.data.source_dev) if p]
    inputs = [run.path("text", f"{name}.txt") for name in ("train", "copies", "dev")]
    inputs += [*sources, *audio_of(*sources)]
    inputs += [run.path(SOFT_PROMPT)] if needs_prompt else []
    inputs += _projected(run)
    result = run.folder.stage("decoder", settings, inputs, ["adapter", "decoder/log.json"], work)
    run.report(result, _best(run.path("decoder/log.json")))
    return result


def _best(log: Path) -> str:
    tuned = read_json(log)
    if not tuned["log"]:
        return "taken as it is"
    row = next(r for r in tuned["log"] if r["step"] == tuned["best_step"] and "dev_loss" in r)
    guard = f", guard {row['guard_loss']:.2f}" if "guard_loss" in row else ""
    return f"best at step {tuned['best_step']} (dev {row['dev_loss']:.2f}{guard})"


def lm(run: Run) -> StageResult:
    """N-grams of the domain and of the source over the decoder's tokens, and over words: `lm/`."""
    recipe = run.recipe
    outputs = ["lm/tokens.arpa", "lm/tokens.json", "lm/words.arpa"]
    source = recipe.lm.source or recipe.data.source_replay
    if source:
        outputs += ["lm/source.arpa", "lm/source.json"]

    def work(scratch: Path) -> None:
        from adapt.lm.build import build_tokens, build_words
        from adapt.model.load import load_tokenizer

        tokenizer, size = load_tokenizer(recipe.base)
        dev, thresholds = _lines(run.path("text/dev.txt")), (0, 0, recipe.lm.prune)
        text, order = _training_text(run), recipe.lm.order
        out = run.path("lm/tokens.arpa")
        build_tokens(text, dev, tokenizer, size, order, thresholds, out, recipe.lm.tokens)
        build_words(text, order, thresholds, run.path("lm/words.arpa"), recipe.lm.words)
        if source:
            lines = read_text(source) if recipe.lm.source else [u.text for u in read_manifest(source)]
            lines = list(map(NORMALISERS[recipe.data.normaliser], lines))
            build_tokens(lines, dev, tokenizer, size, recipe.lm.source_order, (0,), run.path("lm/source.arpa"))

    settings = {**_reading(recipe), "lm": dataclasses.asdict(recipe.lm), "base": base_of(recipe)}
    inputs = [run.path("text", f"{name}.txt") for name in ("train", "copies", "dev")]
    inputs += [path for path in (source, recipe.lm.tokens, recipe.lm.words) if path]
    result = run.folder.stage("lm", settings, inputs, outputs, work)
    told = perplexities(run)[-1]
    run.report(result, f"{told['order']}-gram, {told['ngrams']:,} n-grams, dev perplexity {told['perplexity']:.1f}")
    return result


def perplexities(run: Run) -> list[dict]:
    """Of the model over tokens, for each order: `{"order", "ngrams", "perplexity", "unseen"}`."""
    return read_json(run.path("lm/tokens.json"))["orders"]


@dataclass(frozen=True)
class System:
    """What is transcribed: one of SYSTEMS, and the weights of what is fused into it; None: nothing."""

    of: str
    weights: dict[str, float] | None = None


def systems(run: Run) -> dict[str, System]:
    """By label: SYSTEMS, and behind each those with fusion, as `adapt tune` found them or else as the recipe has them.

    The first is the baseline, and the last what the report looks at.
    """
    from adapt.decode.weights import Weights

    fused = {}
    if run.path(TUNED).exists():
        tuned = read_json(run.path(TUNED))
        fused = {label: System(row["of"], row["weights"]) for label, row in tuned["systems"].items()}
    elif label := Weights(**weights_of(run.recipe)).label:
        fused = {f"{name} + {label}": System(name, weights_of(run.recipe)) for name in ("base", "adapted")}
    found = {}
    for name in SYSTEMS:
        if (name == "ctc" and not has_ctc(run.recipe.base)) or (name == "projected" and not _projected(run)):
            continue
        found |= {name: System(name), **{label: system for label, system in fused.items() if system.of == name}}
    return found


def weights_of(recipe: Recipe) -> dict[str, float]:
    """The weights of the recipe's fusion section."""
    return {key: value for key, value in dataclasses.asdict(recipe.fusion).items() if key != "ilm_slot"}


def transcribe(run: Run) -> None:
    """Each of `systems` on every set that the recipe names: `hyps/<set>.<system>.jsonl`."""
    from adapt.score.report import hypotheses_path

    recipe = run.recipe
    for label, system in systems(run).items():
        for name, manifest in scored(recipe).items():
            out = hypotheses_path(Path(), name, label).as_posix()

            def work(scratch: Path, label=label, system=system, name=name, manifest=manifest, out=out) -> None:
                from adapt.decode.transcribe import transcribe as write

                partial = scratch / "hyps.jsonl"
                write(
                    system_of(run, system.of),
                    with_audio(read_manifest(manifest)),
                    partial,
                    decoder="ctc" if system.of == "ctc" else "llm",
                    fusion=fusion_of(run, system),
                    label=f"{name}, {label}",
                    **dataclasses.asdict(recipe.transcribe),
                )
                run.path("hyps").mkdir(exist_ok=True)
                partial.replace(run.path(out))

            settings = {"transcribe": dataclasses.asdict(recipe.transcribe), "base": base_of(recipe)}
            inputs = [manifest, *audio_of(manifest)]
            inputs += [run.path("adapter")] if system.of == "adapted" else []
            inputs += _projected(run) if system.of in ("projected", "adapted") else []
            if system.weights:
                settings |= _reading(recipe) | {"fusion": system.weights | {"ilm_slot": recipe.fusion.ilm_slot}}
                inputs += fused_files(run, system)
            stage = f"transcribe {name} {label}"
            result = run.folder.stage(stage.replace(" ", "-"), settings, inputs, [out], work)
            run.report(result, f"{len(read_hypotheses(run.path(out)))} utterances of {name}, {label}")


def fused_files(run: Run, system: System) -> list[Path]:
    """The files that the weights of a system give a part in it."""
    weights, ctc = system.weights or {}, system.of == "ctc"
    files = {
        "lm": run.path("lm/words.arpa" if ctc else "lm/tokens.arpa"),
        "source": run.path("lm/source.arpa"),
        "boost": run.recipe.data.lexicon,
    }
    if weights.get("ilm") and run.recipe.fusion.ilm_slot == "soft-prompt":
        files["ilm"] = run.path(SOFT_PROMPT)
    return [path for key, path in files.items() if path and weights.get(key)]


def fusion_of(run: Run, system: System):
    """What is fused into the search of a system; None: nothing."""
    from adapt.decode.ctc import CtcFusion
    from adapt.decode.fusion import Fusion
    from adapt.decode.weights import Weights
    from adapt.model import prompt as prompts

    if not system.weights:
        return None
    llm, weights = system_of(run, system.of), Weights(**system.weights)
    files = fused_files(run, system)
    paths = {key: path for key in ("tokens", "source", "words") if (path := run.path(f"lm/{key}.arpa")) in files}
    common = {
        "lexicon": read_lexicon(run.recipe.data.lexicon) if weights.boost else None,
        "normalise": NORMALISERS[run.recipe.data.normaliser],
    }
    if system.of == "ctc":
        return CtcFusion(llm, weights, lm=paths.get("words"), **common)
    internal = None
    if weights.ilm and run.recipe.fusion.ilm_slot == "soft-prompt":
        internal = llm.prompt(prompts.load(run.path(SOFT_PROMPT), llm))
    elif weights.ilm:
        internal = llm.prompt_without_audio()
    return Fusion(llm, weights, lm=paths.get("tokens"), source=paths.get("source"), internal=internal, **common)


def system_of(run: Run, system: str):
    """The speech LLM that is one of SYSTEMS, loaded once."""
    from adapt.model import adapter

    if system == "projected":
        return run.prompted(run.speech_llm(run.start))
    if system != "adapted":
        return run.speech_llm()
    if "adapted" not in run._loaded:
        run._loaded["adapted"] = adapter.attach(run.load(run.start), run.path("adapter"))
    return run._loaded["adapted"]


def score(run: Run) -> str:
    """WER and EER of every set and system: `scores/metrics.json`, `report.html`; the table comes back."""
    from adapt.score.report import hypotheses_path, save_scores
    from adapt.score.score import score as compute

    recipe = run.recipe
    manifests = scored(recipe)
    sets = {name: read_manifest(path, need_audio=False) for name, path in manifests.items()}
    hyps = {
        name: {label: read_hypotheses(hypotheses_path(run.folder.path, name, label)) for label in systems(run)}
        for name in manifests
    }
    lexicon = read_lexicon(recipe.data.lexicon) if recipe.data.lexicon else None
    train, normalise = _lines(run.path("text/train.txt")), NORMALISERS[recipe.data.normaliser]
    scores = compute(
        sets,
        hyps,
        lexicon,
        normaliser=recipe.data.normaliser,
        seen=seen_entities(sets.values(), lexicon, train, normalise),
        resamples=recipe.score.resamples,
        seed=recipe.seed,
    )

    def work(scratch: Path) -> None:
        stages = ("prompt", "decoder") if learns_soft_prompt(recipe) else ("decoder",)
        curves = {name: read_json(run.path(name, "log.json"))["log"] for name in stages}
        save_scores(run.folder.path, scores, sets, curves, dump(recipe))

    settings = {**_reading(recipe), "score": dataclasses.asdict(recipe.score), "seed": recipe.seed}
    inputs = [hypotheses_path(run.folder.path, name, system) for name in hyps for system in hyps[name]]
    inputs += [*manifests.values(), run.path("text/train.txt")]
    inputs += [recipe.data.lexicon] if recipe.data.lexicon else []
    outputs = [f"scores/{name}" for name in ("metrics.json", "errors.tsv", "table.md")]
    result = run.folder.stage("score", settings, inputs, [*outputs, "report.html"], work)
    run.report(result, f"{len(scores.rows)} rows")
    return scores.table()


def seen_entities(sets: Iterable[list[Utterance]], lexicon, train: list[str], normalise: Callable) -> frozenset[str]:
    """Entities, of the lexicon and of the annotated references, that the domain text holds; normalised."""
    named = [Entry(e.text, e.type) for utterances in sets for u in utterances for e in u.entities or ()]
    both = Lexicon("", "", (*(lexicon.entries if lexicon else ()), *named))
    return entities_in(train, phrase_index(both, normalise), normalise)


def adapt(run: Run) -> None:
    """The stages to an adapter: `adapter/`."""
    write_text(run.path("recipe.yaml"), dump(run.recipe))
    text(run)
    if projects(run.recipe):
        project(run)
    if learns_soft_prompt(run.recipe):
        prompt(run)
    decoder(run)


def check_fusion(run: Run, weights: Iterable[dict[str, float]], manifests: Iterable[Path]) -> None:
    """Raises DataError where what is weighed cannot come to be, or not on the utterances of `manifests`.

    Now, not after the hours of training.
    """
    from adapt.lm.phrases import tokenise
    from adapt.model.load import load_tokenizer

    recipe, problems = run.recipe, []
    given = [{key for key, value in one.items() if value} for one in weights]
    named = set().union(*given)
    if "source" in named and not (recipe.lm.source or recipe.data.source_replay):
        problems.append("recipe.yaml: fusion.source: no text of the source; name lm.source or data.source_replay")
    if "boost" in named and not recipe.data.lexicon:
        problems.append("recipe.yaml: fusion.boost: no lexicon to boost; name data.lexicon")
    if any("reward" in keys and not keys & {*NGRAMS, "boost"} for keys in given):
        problems.append(
            "recipe.yaml: fusion.reward: of tokens alone; give lm, source or boost with it, or leave it out"
        )
    if problems:
        raise DataError(*problems)
    if "boost" in named:
        tokenizer, _ = load_tokenizer(recipe.base)
        encode = functools.partial(tokenizer.encode, add_special_tokens=False)
        own = (u.phrases or () for path in manifests for u in read_manifest(path, need_audio=False))
        entries = list(read_lexicon(recipe.data.lexicon).entries)
        entries += map(Entry, dict.fromkeys(itertools.chain.from_iterable(own)))
        tokenise(entries, encode, NORMALISERS[recipe.data.normaliser], tokenizer.unk_token_id)


def run_all(run: Run) -> str:
    """Every stage that the recipe needs; the score table comes back, empty where the recipe names no set to score."""
    for manifest in scored(run.recipe).values():
        durations(with_audio(read_manifest(manifest)))  # what cannot be read is told now, not after the training
    weights = [system.weights for system in systems(run).values() if system.weights and system.of != "ctc"]
    check_fusion(run, weights, scored(run.recipe).values())
    if projects(run.recipe):
        parse(template_of(run.recipe))
    adapt(run)
    if any((system.weights or {}).get(part) for system in systems(run).values() for part in NGRAMS):
        lm(run)
    if not scored(run.recipe):
        return ""
    transcribe(run)
    return score(run)
