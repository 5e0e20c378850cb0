"""The stages that build a speech LLM from parts, each over a run folder: encoder, read, align, test."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from adapt.base_recipe import BaseRecipe
from adapt.errors import DataError, ModelError, RecipeError
from adapt.model.bases import built_in, locate
from adapt.run import RunFolder, StageResult, write_json
from adapt.score.score import Scores
from adapt.text.corpus import Utterance, read_hypotheses, read_manifest, read_text
from adapt.text.normalise import NORMALISERS
from adapt.text.template import CHAT, CHAT_MARK, parse

EXAMPLES = 12  # recordings whose slot vectors are kept beside the model, for soft prompts to start from
SYSTEMS = ("ctc", "llm")
PICTURES = 6


@dataclass
class Build:
    """A base recipe being run. report: called with each finished stage's result and a few words about it."""

    recipe: BaseRecipe
    folder: RunFolder
    device: str = "auto"
    report: Callable[[StageResult, str], None] = lambda result, note: None

    def path(self, *parts: str) -> Path:
        return self.folder.path.joinpath(*parts)

    @functools.cached_property
    def torch_device(self):
        import torch

        from adapt.model.load import device_of

        if self.device == "spread":
            raise ModelError("device: 'spread' is for models of others alone; write cuda, or another device")
        found = torch.device(device_of(self.device))
        self.folder.device = str(found)
        return found

    @functools.cached_property
    def recordings(self) -> str:
        """A digest of which recordings there are to train and to watch, by path and size: they are too many to read."""
        digest = hashlib.sha256()
        for manifest in (self.recipe.data.train, self.recipe.data.dev):
            for utterance in read_manifest(manifest, need_audio=False):
                audio = utterance.audio
                size = audio.stat().st_size if audio and audio.exists() else None
                digest.update(f"{utterance.id}\t{size}\n".encode())
        return digest.hexdigest()

    @functools.cached_property
    def speech(self):
        return self._speech(self.recipe.data.train)

    @functools.cached_property
    def dev(self):
        return self._speech(self.recipe.data.dev)

    def _speech(self, manifest: Path):
        from adapt.train.speech import read_speech

        data = self.recipe.data
        return read_speech(manifest, NORMALISERS[data.normaliser], max_seconds=data.max_seconds, bad=data.bad)

    def texts(self) -> list[str]:
        """The transcripts, and the sentences of data.text; distinct."""
        data = self.recipe.data
        normalise = NORMALISERS[data.normaliser]
        said = [normalise(u.text) for u in read_manifest(data.train, need_audio=False)]
        written = [normalise(line) for line in read_text(data.text)] if data.text else []
        return [text for text in dict.fromkeys([*said, *written]) if text]

    def training(self) -> dict:
        """What every training takes beside its own settings."""
        from adapt.train.fit import uses_bf16

        bf16 = uses_bf16(self.recipe.precision, self.torch_device)
        return {"seed": self.recipe.seed, "bf16": bf16, "workers": self.recipe.workers}

    def settings(self, *sections: str) -> dict:
        """What a stage hangs on: its sections, and how data is read."""
        recipe = self.recipe
        data = {name: getattr(recipe.data, name) for name in ("normaliser", "max_seconds", "bad", "temperature")}
        kept = {name: dataclasses.asdict(getattr(recipe, name)) for name in sections}
        return {"data": data, **kept, "seed": recipe.seed, "precision": recipe.precision}


def _place(name: str) -> str:
    """What transformers loads: the folder of a built-in base, else the name as it is."""
    return str(locate(name)) if name in built_in() else name


def _of_folder(name: str | None) -> list[Path]:
    return [Path(_place(name))] if name and Path(_place(name)).is_dir() else []


@contextlib.contextmanager
def _loading(key: str, name: str | None) -> Iterator[None]:
    """What transformers says of a model that cannot be loaded, in a line: a `ModelError`."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(":. ")
        ways = "its name on the hub, or tiny" if key == "encoder.start" else "or its name on the hub"
        raise ModelError(f"{key}: {name!r} cannot be loaded: {reason}; give the folder of a model, {ways}") from error


def _audio_encoder(name: str, alphabet: str):
    """The audio encoder that `encoder.start` names, with a CTC head over `alphabet`."""
    import torch
    from transformers import AutoConfig

    from adapt.model.composed import ComposedConfig, ComposedForSpeechRecognition
    from adapt.model.encoders import pretrained, relettered

    place = _place(name)
    if not isinstance(AutoConfig.from_pretrained(place), ComposedConfig):
        return pretrained(place, alphabet)
    return relettered(ComposedForSpeechRecognition.from_pretrained(place, dtype=torch.float32).encoder, alphabet)


def _decoder(place: str, alphabet: str):
    """The causal LM at `place` and its tokenizer; of a speech LLM made here its decoder, and its projector, else None.

    Letters of `alphabet` that it cannot write are given to it.

    Raises what transformers does (`_loading`).
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from adapt.model.composed import ComposedConfig, ComposedForSpeechRecognition
    from adapt.model.tokenizer import with_letters

    if isinstance(AutoConfig.from_pretrained(place), ComposedConfig):
        made = ComposedForSpeechRecognition.from_pretrained(place, dtype=torch.float32)
        made.language_model.generation_config = made.generation_config
        llm, projector = made.language_model, made.projector
    else:
        llm, projector = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32), None
    return *with_letters(llm, AutoTokenizer.from_pretrained(place), alphabet), projector


def _check_starts(recipe: BaseRecipe, alphabet: str) -> None:
    """Raises `ModelError` when what the recipe begins with cannot be loaded, or not write the letters of `alphabet`.

    Now, not after the encoder's hours.
    """
    from transformers import AutoConfig, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    from adapt.model.composed import ComposedConfig
    from adapt.model.tokenizer import extensible, unwritable
    from adapt.train.pseudo_audio import unspelled

    wants_chat, chats = parse(recipe.align.prompt)[0].kind == CHAT, None
    for key, name in (("encoder.start", recipe.encoder.start), ("llm.start", recipe.llm.start)):
        if not name:
            continue
        with _loading(key, name):
            config = AutoConfig.from_pretrained(_place(name))
            tokenizer = AutoTokenizer.from_pretrained(_place(name)) if key == "llm.start" else None
        if tokenizer is None:
            _check_length(recipe, config)
            continue
        chats = tokenizer.chat_template
        if type(config) not in (*MODEL_FOR_CAUSAL_LM_MAPPING, ComposedConfig):
            told = f"{key}: {name!r} is a {config.model_type!r} model"
            raise ModelError(f"{told}; give a causal LM, or a speech LLM made here")
        if recipe.llm.read_steps and not tokenizer.is_fast:
            told = f"{key}: the tokenizer of {name!r} does not tell which letters a token is of"
            raise ModelError(f"{told}; give another LLM, or llm.read_steps: 0")
        wanting = unspelled(tokenizer, alphabet)
        if tokenizer.is_fast and extensible(tokenizer):
            wanting = "".join(c for c in wanting if not unwritable(tokenizer, c))  # the others will be given to it
        ways = ["llm.read_steps: 0"] if recipe.llm.read_steps else []
        ways += ["another align.explicit"] if recipe.align.explicit == "letters" else []
        if wanting and ways:
            told = f"{key}: the tokenizer of {name!r} has no piece for {wanting[0]!r} alone, to be spelled with"
            raise ModelError(f"{told}; give {' and '.join(ways)}")
        if missing := unwritable(tokenizer, alphabet):
            told = f"{key}: the tokenizer of {name!r} cannot write {missing!r}, letters of the transcripts"
            if not extensible(tokenizer):
                raise ModelError(f"{told}; give another LLM")
            if _untaught(recipe) and recipe.align.decoder != "full":
                raise ModelError(f"{told}; give llm.read_steps or align.decoder: full, so that it learns them")
    if wants_chat and not chats:
        told = f"{recipe.llm.start!r} has no chat template" if recipe.llm.start else "a new LLM has no chat template"
        raise ModelError(f"align.prompt: {told}; write the prompt without {CHAT_MARK}")


def _check_length(recipe: BaseRecipe, encoder) -> None:
    """Raises `ModelError` for recordings longer than an encoder of this config hears: Whisper's has 1,500 places."""
    if encoder.model_type == "whisper" and recipe.data.max_seconds > (most := 2 * encoder.max_source_positions / 100):
        told = f"data.max_seconds: {recipe.data.max_seconds:g}, of which {recipe.encoder.start!r} hears {most:g}"
        raise ModelError(f"{told}; give at most that")


def _check_shapes(recipe: BaseRecipe) -> None:
    """Raises `RecipeError` for sizes of a new encoder or decoder that do not go together."""
    encoder, llm, problems = recipe.encoder, recipe.llm, []
    if not encoder.start and not encoder.steps:
        problems.append("encoder.steps: 0 without encoder.start; give steps, or an encoder to begin with")
    if not encoder.start and encoder.hidden_size % encoder.heads:
        problems.append(f"encoder.heads: {encoder.heads} do not divide {encoder.hidden_size}, the hidden_size")
    if not encoder.start and encoder.subsampling.bit_count() != 1:
        problems.append(f"encoder.subsampling: {encoder.subsampling} is no power of two; write 2, 4 or 8")
    if not llm.start and llm.hidden_size % (2 * llm.heads):
        problems.append(f"llm.heads: {llm.hidden_size}, the hidden_size, is no even number for each of {llm.heads}")
    if problems:
        raise RecipeError(*problems)


def encoder(build: Build) -> StageResult:
    """CTC over the characters of the transcripts: `encoder/`."""
    recipe, settings = build.recipe, build.recipe.encoder

    def work(scratch: Path) -> None:
        import torch

        from adapt.model.encoders import conformer
        from adapt.train.base import train_encoder

        alphabet = "".join(sorted(set().union(*(item.text for item in build.speech.items))))
        _check_starts(recipe, alphabet)
        torch.manual_seed(recipe.seed)
        if settings.start:
            with _loading("encoder.start", settings.start):
                model = _audio_encoder(settings.start, alphabet)
        else:
            sizes = ("hidden_size", "layers", "heads", "channels", "subsampling")
            model = conformer(alphabet, **{name: getattr(settings, name) for name in sizes})
        model.to(build.torch_device).freeze(settings.frozen)
        names = ("steps", "batch_seconds", "learning_rate", "warmup_steps", "short", "running")
        log = settings.steps and train_encoder(
            model,
            build.speech,
            build.dev,
            **{name: getattr(settings, name) for name in names},
            temperature=recipe.data.temperature,
            folder=scratch,
            **build.training(),
        )
        model.save_pretrained(build.path("encoder"))
        write_json(build.path("encoder/log.json"), log or [])

    inputs = [recipe.data.train, recipe.data.dev, *_of_folder(settings.start)]
    keys = {**build.settings("encoder"), "recordings": build.recordings}
    result = build.folder.stage("encoder", keys, inputs, ["encoder"], work)
    build.report(result, _last(build.path("encoder/log.json"), "wer", "WER {:.1%} on dev, greedy CTC"))
    return result


def _untaught(recipe: BaseRecipe) -> bool:
    """Whether the decoder is taken as it is, from where it lies."""
    return bool(recipe.llm.start) and not (recipe.llm.lm_steps or recipe.llm.read_steps)


def _alphabet(build: Build) -> str:
    """The letters that the run's encoder hears."""
    return json.loads(build.path("encoder/config.json").read_text(encoding="utf-8"))["alphabet"]


def read(build: Build) -> StageResult | None:
    """The decoder and its tokenizer, as a language model and reading its slot, from text alone: `llm/`.

    None when the recipe takes a decoder as it is.
    """
    recipe, settings = build.recipe, build.recipe.llm
    if _untaught(recipe):
        return None
    alphabet = _alphabet(build)  # it need not be done again for another encoder, only for other letters

    def work(scratch: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, LlamaConfig

        from adapt.model.tokenizer import train_tokenizer
        from adapt.train.base import train_decoder

        _check_starts(recipe, alphabet)
        torch.manual_seed(recipe.seed)
        texts = build.texts()
        if settings.start:
            with _loading("llm.start", settings.start):
                llm, tokenizer, _ = _decoder(_place(settings.start), alphabet)
        else:
            tokenizer = train_tokenizer(texts, settings.pieces, alphabet)
            shape = {
                "vocab_size": len(tokenizer),
                "hidden_size": settings.hidden_size,
                "num_hidden_layers": settings.layers,
                "num_attention_heads": settings.heads,
                "intermediate_size": settings.intermediate_size,
                "max_position_embeddings": 2048,
                # With the usual 0.02 attention this narrow begins nearly even, and learns to copy from the slot late.
                "initializer_range": settings.hidden_size**-0.5,
                "tie_word_embeddings": True,
            }
            ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
            llm = AutoModelForCausalLM.from_config(LlamaConfig(**shape, **ids))
        speech_llm = _composed(build, llm, tokenizer)
        dev, log = [item.text for item in build.dev.items], []
        for name, steps, rate in (
            ("lm", settings.lm_steps, settings.lm_rate),
            ("read", settings.read_steps, settings.read_rate),
        ):
            if steps:
                log += train_decoder(
                    speech_llm,
                    texts,
                    dev,
                    reads=name == "read",
                    steps=steps,
                    batch_size=settings.batch_size,
                    learning_rate=rate,
                    folder=scratch / name,
                    **build.training(),
                )
        speech_llm.model.language_model.save_pretrained(build.path("llm"))
        tokenizer.save_pretrained(build.path("llm"))
        write_json(build.path("llm/log.json"), log)

    inputs = [recipe.data.train, recipe.data.dev, *_of_folder(settings.start)]
    inputs += [recipe.data.text] if recipe.data.text else []
    keys = {**build.settings("llm"), "alphabet": alphabet, "prompt": recipe.align.prompt}
    result = build.folder.stage("read", keys, inputs, ["llm"], work)
    build.report(result, _last(build.path("llm/log.json"), "dev_loss", "loss {:.2f} on dev transcripts"))
    return result


def _composed(build: Build, llm, tokenizer):
    """The speech LLM of encoder, a fresh projector and a decoder."""
    import torch

    from adapt.model.composed import ComposedConfig, ComposedForSpeechRecognition
    from adapt.model.encoders import CtcEncoder
    from adapt.model.load import view
    from adapt.text.template import SLOT

    settings = build.recipe.align
    trained = CtcEncoder.from_pretrained(build.path("encoder"), dtype=torch.float32)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    torch.manual_seed(build.recipe.seed)
    config = ComposedConfig(
        audio_config=trained.config.audio_config,
        alphabet=trained.config.alphabet,
        text_config=llm.config,
        stack=settings.stack,
        projector=settings.projector,
        projector_size=settings.projector_size,
        prompt=settings.prompt,
        # What the decoder has no token for stands beyond its vocabulary.
        audio_token_id=tokenizer.get_vocab().get(SLOT, max(len(tokenizer), llm.config.vocab_size)),
        max_seconds=build.recipe.data.max_seconds,
    )
    model = ComposedForSpeechRecognition(config)
    model.encoder.load_state_dict(trained.state_dict())
    model.language_model.load_state_dict(llm.state_dict())
    model.generation_config.update(**llm.generation_config.to_diff_dict())
    return view(build.recipe.name, model.to(build.torch_device), tokenizer)


def _shapes(module) -> dict:
    return {name: weights.shape for name, weights in module.state_dict().items()}


def align(build: Build) -> StageResult:
    """The projector, and the decoder beside it, on real audio: `model/`."""
    recipe, settings = build.recipe, build.recipe.align
    place = _place(recipe.llm.start) if _untaught(recipe) else str(build.path("llm"))

    def work(scratch: Path) -> None:
        from adapt.model.prompt import SLOT_EXAMPLES, save_slot_examples
        from adapt.train.base import AlignSettings
        from adapt.train.base import align as train

        alphabet = _alphabet(build)
        _check_starts(recipe, alphabet)
        with _loading("llm.start", recipe.llm.start or place):
            llm, tokenizer, _ = _decoder(place, alphabet)
            projector = recipe.llm.start and _decoder(_place(recipe.llm.start), alphabet)[2]
        speech_llm = _composed(build, llm, tokenizer)
        if projector and _shapes(projector) == _shapes(speech_llm.model.projector):
            speech_llm.model.projector.load_state_dict(projector.state_dict())
        names = {f.name for f in dataclasses.fields(AlignSettings)} - {"temperature"}
        given = AlignSettings(**{name: getattr(settings, name) for name in names}, temperature=recipe.data.temperature)
        log = train(speech_llm, build.speech, build.dev, build.texts(), given, folder=scratch, **build.training())
        speech_llm.model.eval().save_pretrained(build.path("model"))
        tokenizer.save_pretrained(build.path("model"))
        items = build.speech.items
        _, samples, lengths = build.speech.audio(items[:: max(1, len(items) // EXAMPLES)][:EXAMPLES])
        slots = speech_llm.slot_vectors([row[:n].numpy() for row, n in zip(samples, lengths.tolist(), strict=True)])
        save_slot_examples(build.path("model", SLOT_EXAMPLES), slots)
        write_json(build.path("model/log.json"), log)

    inputs = [recipe.data.train, recipe.data.dev, build.path("encoder"), *_of_folder(place)]
    inputs += [recipe.data.text] if recipe.data.text else []
    keys = {**build.settings("align"), "llm": recipe.llm.start, "recordings": build.recordings}
    result = build.folder.stage("align", keys, inputs, ["model"], work)
    build.report(result, _last(build.path("model/log.json"), "dev_loss", "loss {:.2f} on dev audio"))
    return result


def _last(log: Path, key: str, form: str) -> str:
    rows = [row for row in json.loads(log.read_text(encoding="utf-8")) if key in row]
    return form.format(rows[-1][key]) if rows else ""


@dataclass(frozen=True)
class Tested:
    """What `test` found.

    scores: of the encoder alone (`ctc`) and the decoder (`llm`), in all, by language and by voice. means: of each
    system's WER over the languages; none where there is one. monotonicity: by what the slots are held against, pieces
    of the transcript or its letters (`adapt.model.alignment`).
    """

    scores: Scores
    means: dict[str, float]
    monotonicity: dict[str, float]

    def to_json(self) -> dict:
        return {**self.scores.to_json(), "means": self.means, "monotonicity": self.monotonicity}

    def table(self) -> str:
        lines = [self.scores.wers()]
        if self.means:
            told = ", ".join(f"{system} {100 * wer:.1f}" for system, wer in self.means.items())
            lines.append(f"mean over languages: {told}")
        told = ", ".join(f"{units} {value:.3f}" for units, value in self.monotonicity.items())
        lines.append(f"monotonicity of the alignment, in cosine: {told}")
        return "\n".join([*lines, self.scores.signature])


def _test_set(recipe: BaseRecipe) -> list[Utterance]:
    if not recipe.data.test:
        raise DataError("recipe.yaml: data.test: missing; name a manifest to score")
    return read_manifest(recipe.data.test)


def test(build: Build) -> Tested:
    """The decoder's WER beside that of the encoder alone: `hyps/`, `scores/`; `alignment/` holds pictures.

    Raises `DataError` when the recipe names no test set.
    """
    from adapt.score.report import hypotheses_path, save_scores
    from adapt.score.score import score

    recipe = build.recipe
    utterances = _test_set(recipe)
    model = functools.cache(functools.partial(_load, build))
    inputs = [build.path("model"), recipe.data.test, *(u.audio for u in utterances)]
    texts = {}
    for system in SYSTEMS:
        out = hypotheses_path(Path(), "test", system)

        def work(scratch: Path, system=system, out=out) -> None:
            from adapt.decode.transcribe import transcribe

            partial = scratch / "hyps.jsonl"
            more = dataclasses.asdict(recipe.transcribe)
            transcribe(model(), utterances, partial, decoder=system, label=system, **more)
            build.path("hyps").mkdir(exist_ok=True)
            partial.replace(build.path(str(out)))

        settings = {"transcribe": dataclasses.asdict(recipe.transcribe)}
        result = build.folder.stage(f"test-{system}", settings, inputs, [str(out)], work)
        build.report(result, f"{len(utterances)} utterances, {system}")
        texts[system] = read_hypotheses(build.path(str(out)))
    settings = {"normaliser": recipe.data.normaliser, "seed": recipe.seed}
    result = build.folder.stage(
        "alignment", settings, inputs, ["alignment"], lambda scratch: _alignment(build, model(), utterances)
    )
    build.report(result, f"{PICTURES} pictures")
    sets = _groups(utterances)
    hyps = {name: {s: {u.id: texts[s][u.id] for u in members} for s in SYSTEMS} for name, members in sets.items()}
    scores = score(sets, hyps, None, recipe.data.normaliser, resamples=recipe.score.resamples, seed=recipe.seed)
    save_scores(build.folder.path, scores, {"test": utterances})
    by_language = [row for row in scores.rows if row.set.startswith("language ")]
    wers = {system: [row.wer for row in by_language if row.system == system] for system in SYSTEMS}
    means = {system: sum(wer) / len(wer) for system, wer in wers.items() if wer}
    return Tested(scores, means, json.loads(build.path("alignment/monotonicity.json").read_text(encoding="utf-8")))


def _load(build: Build):
    from adapt.model.load import load

    return load(str(build.path("model")), build.device)


def _alignment(build: Build, speech_llm, utterances: list[Utterance]) -> None:
    """`alignment/monotonicity.json` over all utterances, and pictures of some."""
    import numpy as np

    from adapt.model.alignment import cosines, monotonicity, picture
    from adapt.model.features import read_audio
    from adapt.train.pseudo_audio import symbol_ids

    normalise, rng = NORMALISERS[build.recipe.data.normaliser], np.random.default_rng(build.recipe.seed)
    try:
        letters = symbol_ids(speech_llm)
    except ModelError:
        letters = {}
    found: dict[str, list[float]] = {}
    for number, utterance in enumerate(utterances):
        text = normalise(utterance.text)
        (slots,) = speech_llm.slot_vectors([read_audio(utterance.audio)])
        pieces = speech_llm.target_ids(text)[:-1]
        units = {"pieces": (pieces, speech_llm.tokenizer.convert_ids_to_tokens(pieces))}
        if spelled := [c for c in text if c in letters]:
            units["letters"] = ([letters[c] for c in spelled], spelled)
        panels = {name: (cosines(speech_llm, slots, ids), labels) for name, (ids, labels) in units.items() if ids}
        for name, (matrix, _) in panels.items():
            if (value := monotonicity(matrix, rng)) is not None:
                found.setdefault(name, []).append(value)
        if panels and number % max(1, len(utterances) // PICTURES) == 0:
            picture(panels, text, build.path("alignment", f"{number:04d}.png"))
    means = {name: round(sum(values) / len(values), 4) for name, values in found.items()}
    write_json(build.path("alignment/monotonicity.json"), means)


def _groups(utterances: list[Utterance]) -> dict[str, list[Utterance]]:
    """All utterances, and those of each language and each voice where there are several.

    >>> rows = [Utterance(str(i), "so", voice="ab"[i % 2], language="en") for i in range(4)]
    >>> {name: len(members) for name, members in _groups(rows).items()}
    {'test': 4, 'voice a': 2, 'voice b': 2}
    """
    found = {"test": utterances}
    for about in ("language", "voice"):
        names = sorted({name for u in utterances if (name := getattr(u, about))})
        if len(names) > 1:
            found |= {f"{about} {name}": [u for u in utterances if getattr(u, about) == name] for name in names}
    return found


STAGES: dict[str, Callable[[Build], object]] = {"encoder": encoder, "read": read, "align": align, "test": test}


def run_until(build: Build, last: str) -> object:
    """Every stage up to `last`, skipping what is done; what that one returns."""
    _check_shapes(build.recipe)  # this and more: now, not after the encoder's hours
    parse(build.recipe.align.prompt)
    if last == "test":
        _test_set(build.recipe)
    for name, stage in STAGES.items():
        result = stage(build)
        if name == last:
            return result
    raise KeyError(last)
