"""`adapt transcribe` as a function of its options: from files and names to transcripts.

The module imports no torch before a job runs.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from adapt.decode.batches import Batching, domains_of
from adapt.decode.parts import DomainNgrams, LexiconBoosting
from adapt.decode.weights import Weights
from adapt.errors import DataError, RecipeError, unreadable
from adapt.ranks import launched
from adapt.recipe.choices import QUANTISE_BITS
from adapt.recipe.domain import DomainData, Recipe, Transcribe
from adapt.text.clip import Clip, channels
from adapt.text.files import nfc
from adapt.text.lexicon import read_lexicon
from adapt.text.manifest import Utterance, read_manifest
from adapt.text.normalise import NORMALISERS
from adapt.text.sentences import sentences
from adapt.text.transcripts import read_hypotheses

if TYPE_CHECKING:
    from adapt.decode.ctc import CtcFusion
    from adapt.decode.fusion import Fusion
    from adapt.decode.names import NamesInPrompt
    from adapt.decode.rescore import Rescorer
    from adapt.decode.transcribe import Transcriber
    from adapt.model.speech_llm import SpeechLLM

MANIFESTS = (".jsonl", ".json", ".parquet")  # how the names of manifests end, in small letters or capitals
ENGINES = ("local", "ray")  # this process, or actors of Ray
CHANNELS = ("mix", "each")  # the mean of all channels, or every channel as a recording of its own


@dataclass(frozen=True)
class TranscriptionJob:
    """The options of `adapt transcribe`.

    audio: audio files, and manifests (MANIFESTS). channel: of recordings whose manifest names none: one of CHANNELS
    or a number, from 0. adapters: folders by name; a single one is named `default`, and several are named after their
    domains. prompt: file of a learned prompt of `adapt project`; None: the prompt of the base. ctc_weight: None: the
    default if the base has a CTC head. lm, lexicon, rescore: None: none. boost: None: the default of the chosen
    `decoder`. reward: for each token (with the decoder `ctc`, each word). names: as the key `transcribe.names`. text:
    domain text, as `data.text`, of which an encoder that transcribes reads `sentences` sentences before a recording;
    None: none. out: None: a temporary file. quantise: None: none. engine: one of ENGINES. workers: actors of Ray,
    each with a model of its own; None: as many as the cluster has GPUs, or one.
    """

    audio: Sequence[str]
    channel: str = "mix"
    base: str = Recipe.base
    adapters: Mapping[str, Path] = field(default_factory=dict)
    prompt: Path | None = None
    decoder: str = "llm"
    ctc_weight: float | None = None
    lm: Path | None = None
    lm_weight: float = DomainNgrams.start
    lexicon: Path | None = None
    boost: float | None = None
    names: str = Transcribe.names
    names_in_prompt: int = Transcribe.names_in_prompt
    text: str | None = None
    sentences: int = 3
    ilm: float = 0.0
    reward: float = 0.0
    rescore: str | None = None
    rescore_weight: float = 0.1
    nbest: int = 1
    num_beams: int = Transcribe.num_beams
    max_new_tokens: int = Transcribe.max_new_tokens
    batch_size: int = Transcribe.batch_size
    out: Path | None = None
    normaliser: str = DomainData.normaliser
    dtype: str = Recipe.dtype
    quantise: str | None = None
    language: str = Recipe.language
    device: str = "auto"
    engine: str = "local"
    workers: int | None = None


@dataclass(frozen=True)
class Transcripts:
    """texts: the transcript of each utterance by its id. earlier: how many of them the file had before the job."""

    texts: dict[str, str]
    earlier: int


def conflict(job: TranscriptionJob) -> str | None:
    """The first problem of options that exclude each other; None if there is none."""
    encoder_alone, option = job.decoder != "llm", f"--decoder {job.decoder}"
    if encoder_alone and job.adapters:
        return f"{option} does not use the decoder that --adapter adapts; leave out one of the two"
    if encoder_alone and job.prompt:
        return f"{option} does not use the decoder that --prompt belongs to; leave out one of the two"
    if job.prompt and job.adapters:
        return "--prompt: an adapter comes with the prompt of its training; leave out one of the two"
    if encoder_alone and (job.ilm or job.rescore or job.nbest > 1 or job.ctc_weight is not None):
        return f"{option} uses no LLM and gives one hypothesis; leave out --ilm, --rescore, --nbest and --ctc-weight"
    if encoder_alone and job.max_new_tokens != Transcribe.max_new_tokens:
        return f"--max-new-tokens: {option} uses no LLM; leave out one of the two"
    if job.ilm and len(job.adapters) > 1:
        return "--ilm subtracts the internal LM of one decoder, but there are several adapters; give one --adapter"
    if job.lm_weight != DomainNgrams.start and not job.lm:
        return "--lm-weight: no LM that it weighs; give --lm too, or leave it out"
    # Utterances of manifests may bring phrases to boost.
    manifests = any(name.lower().endswith(MANIFESTS) for name in job.audio)
    if job.boost is not None and not job.lexicon and not manifests:
        return "--boost: no phrases that it weighs; give --lexicon too, or leave it out"
    if job.boost is not None and job.names not in ("boost", "both"):
        return f"--boost: --names {job.names} boosts nothing; leave out one of the two"
    if job.reward and job.decoder == "first-pass":
        return f"--reward: {option} does not use it; leave out one of the two"
    if job.reward and not job.lm and not (job.lexicon and job.names in ("boost", "both")):
        return "--reward: alone it has no effect; give --lm, or --lexicon to boost, or leave it out"
    if job.names in ("prompt", "both") and job.decoder == "ctc":
        return f"--names {job.names}: --decoder ctc has no prompt; leave out one of the two"
    if job.names not in (Transcribe.names, "none") and not job.lexicon and not manifests:
        return f"--names {job.names}: there are no names; give --lexicon too"
    if job.sentences != TranscriptionJob.sentences and not job.text:
        return "--sentences: there is no text; give --text too, or leave it out"
    if job.text and job.decoder == "ctc":
        return "--text: --decoder ctc has no prompt; leave out one of the two"
    if job.nbest > job.num_beams:
        return f"--nbest {job.nbest}: more than the {job.num_beams} beams; give --num-beams {job.nbest}"
    if job.workers is not None and job.engine != "ray":
        return f"--workers {job.workers}: only Ray has workers; give --engine ray too, or leave it out"
    if job.device == "shard":
        return "--device shard: only trains, by adapt prompt and adapt decoder; give --device spread"
    if job.engine == "ray" and (job.device == "spread" or ":" in job.device):
        return f"--device {job.device}: Ray gives each worker its device; give auto, cpu or cuda"
    if job.engine == "ray" and (count := launched().count) > 1:
        return f"--engine ray: a launcher started {count} processes, but Ray starts its own; start one"
    return None


def run_job(job: TranscriptionJob) -> Transcripts:
    """Transcribe, and write the lines to `job.out` unless it is None.

    Raises RecipeError for options that exclude each other, and for an engine that is not installed or does not start,
    DataError for missing and unreadable files and for equal names, and ModelError for a model, an adapter or a prompt
    that cannot be loaded.
    """
    if problem := conflict(job):
        raise RecipeError(problem)
    if launched().count > 1 and not job.out:
        raise RecipeError("several processes print no transcripts; give --out, the file that they write together")
    from adapt.decode.transcribe import write_transcripts

    utterances = read_utterances(job.audio, job.channel)
    build = functools.partial(job_transcriber, job, any(u.phrases for u in utterances))
    if job.engine == "ray":
        from adapt.decode.ray_engine import on_ray
        from adapt.model.load import longest

        engine = on_ray(build, job.workers, job.device)
        batching = Batching(job.batch_size, longest(job.base), domains_of(job.adapters))
    else:
        engine = build()
        batching = engine.batching
    with tempfile.TemporaryDirectory() as folder:
        out = job.out or Path(folder) / "hyps.jsonl"
        earlier = write_transcripts(engine, batching, utterances, out)
        texts = read_hypotheses(out)
    return Transcripts({u.id: texts[u.id] for u in utterances}, earlier)


def job_transcriber(job: TranscriptionJob, has_phrases: bool) -> Transcriber:
    """The transcriber of the options, and the errors of `run_job` for files and models.

    has_phrases: whether utterances bring phrases of their own.
    """
    from adapt.decode.transcribe import transcriber

    speech_llm = load(job)
    options = {} if job.ctc_weight is None else {"ctc_weight": job.ctc_weight}
    return transcriber(
        speech_llm,
        decoder=job.decoder,
        num_beams=job.num_beams,
        max_new_tokens=job.max_new_tokens,
        batch_size=job.batch_size,
        nbest=job.nbest,
        fusion=job_fusion(job, speech_llm, has_phrases),
        rescorer=rescorer_of(job, speech_llm),
        names=names_of(job, speech_llm),
        **options,
    )


def read_utterances(audio: Sequence[str], channel: str = "mix") -> list[Utterance]:
    """The utterances of manifests, and one for each audio file, whose id is its path.

    channel: as in `TranscriptionJob`; with `each`, the number of the channel is appended to the id. Raises DataError
    with every missing file and every id that occurs twice.
    """
    utterances: list[Utterance] = []
    for name in audio:
        if name.lower().endswith(MANIFESTS):
            utterances += read_manifest(Path(name), need_text=False)
        else:
            readable = os.fsencode(name).decode("utf-8", "replace")  # a name of a file need not be UTF-8
            utterances.append(Utterance(nfc(readable), "", Clip(Path(name))))
    if missing := [u.audio.path for u in utterances if not u.audio.path.exists()]:
        raise DataError(*map(unreadable, missing))
    if channel != "mix":
        utterances = [u for utterance in utterances for u in _channels(utterance, channel)]
    times = Counter(u.id for u in utterances)
    if repeated := [i for i, number in times.items() if number > 1]:
        raise DataError(*(f"{i}: {times[i]} of the recordings have this name; give each its own" for i in repeated))
    return utterances


def _channels(utterance: Utterance, channel: str) -> list[Utterance]:
    """The utterance in one channel, or in each."""
    if utterance.audio.channel >= 0:
        return [utterance]
    if channel != "each":
        return [replace(utterance, audio=replace(utterance.audio, channel=int(channel)))]
    return [
        replace(utterance, id=f"{utterance.id}-{number}", audio=replace(utterance.audio, channel=number))
        for number in range(channels(utterance.audio))
    ]


def load(job: TranscriptionJob) -> SpeechLLM:
    """The base with adapters or a learned prompt. Raises DataError if the job needs a CTC head that the base lacks."""
    from adapt.model import learned_prompt
    from adapt.model.adapter import attach
    from adapt.model.load import load_speech_llm

    bits = QUANTISE_BITS[job.quantise] if job.quantise else None
    llm = load_speech_llm(job.base, job.device, dtype=job.dtype, quantise=bits, language=job.language)
    needs_ctc = "--decoder ctc" if job.decoder == "ctc" else "--ctc-weight" if job.ctc_weight else None
    if needs_ctc and not llm.has_ctc:
        raise DataError(f"{needs_ctc}: the base {job.base!r} has no encoder with a CTC head; leave the option out")
    if job.decoder == "first-pass" and not llm.transcribes:
        raise DataError(f"--decoder first-pass: the encoder of the base {job.base!r} writes none; leave the option out")
    if job.text and not llm.transcribes:
        problem = f"the encoder of the base {job.base!r} does not transcribe, and reads no sentences"
        raise DataError(f"--text: {problem}; leave the option out")
    if job.prompt:
        llm = learned_prompt.with_learned(llm, learned_prompt.load_learned_prompt(job.prompt, llm))
    for name, folder in job.adapters.items():
        attach(llm, folder, name)
    return llm


def job_fusion(job: TranscriptionJob, speech_llm: SpeechLLM, has_phrases: bool) -> Fusion | CtcFusion | None:
    """The fusion of the options: a `CtcFusion` for --decoder ctc, else a `Fusion`; None without fusion.

    has_phrases: whether utterances bring phrases of their own.
    """
    from adapt.decode.ctc import CtcFusion
    from adapt.decode.fusion import Fusion

    boosts = job.names in ("boost", "both")
    fused = job.lm or job.ilm or (boosts and (job.lexicon or has_phrases))
    if not fused:
        return None
    default = LexiconBoosting.hotword_weight if job.decoder == "ctc" else LexiconBoosting.start
    boost = (default if job.boost is None else job.boost) if boosts else 0.0
    weights = Weights(lm=job.lm_weight if job.lm else 0.0, boost=boost, ilm=job.ilm, reward=job.reward)
    lexicon = read_lexicon(job.lexicon) if job.lexicon and boosts else None
    normalise = NORMALISERS[job.normaliser]
    if job.decoder == "ctc":
        return CtcFusion(speech_llm, weights, lm=job.lm, lexicon=lexicon, normalise=normalise)
    internal = speech_llm.prompt_without_audio() if job.ilm else None
    return Fusion(speech_llm, weights, {"lm": job.lm, "boost": lexicon, "ilm": internal}, normalise=normalise)


def names_of(job: TranscriptionJob, speech_llm: SpeechLLM) -> NamesInPrompt | None:
    """The names and sentences that the options put into prompts; None for none."""
    from adapt.decode.names import NamesInPrompt

    lists = job.names in ("prompt", "both")
    if not lists and not job.text:
        return None
    lexicon = read_lexicon(job.lexicon) if job.lexicon and lists else None
    text = sentences(job.text) if job.text else ()
    count = job.names_in_prompt if lists else 0
    return NamesInPrompt(speech_llm, lexicon, count, NORMALISERS[job.normaliser], text, job.sentences)


def rescorer_of(job: TranscriptionJob, speech_llm: SpeechLLM) -> Rescorer | None:
    """The rescorer of the options; None without one."""
    from adapt.decode.rescore import Rescorer

    return Rescorer(job.rescore, job.rescore_weight, speech_llm.device) if job.rescore else None
