"""`adapt check`: check a recipe by its files alone, and a base by loading it, before a run."""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapt.model.bases import built_in, config_of, described, find_base, parameters
from adapt.recipe.domain import Recipe
from adapt.stages import plan
from adapt.stages.checks import fusion_problems
from adapt.stages.manifests import Manifests
from adapt.text.corpus import Corpus
from adapt.text.lexicon import read_lexicon
from adapt.text.manifest import Utterance
from adapt.text.mentions import PhraseIndex, entities_in, phrase_index, reference_mentions, without_place
from adapt.text.normalise import NORMALISERS
from adapt.text.words import words_of

if TYPE_CHECKING:
    import torch

    from adapt.model.speech_llm import SpeechLLM

SENTENCES, WORDS = 8, 12  # the size of the batch that is timed
TRAINED = ("paired", "replay", "guard")  # sets that are trained on, or on which a loss is computed
UNCOVERED = 0.1  # share of uncovered words above which to warn: with 0.23, an n-gram LM was of little use


@dataclass(frozen=True)
class Finding:
    """A line of `adapt check`. verdict: ok, warn or fail. about: its subject, in a word or two."""

    verdict: str
    about: str
    text: str


def check(recipe: Recipe) -> list[Finding]:
    """Check a recipe: counts, duplicates, leaks, and the coverage of text and lexicon.

    Raises DataError for files that cannot be read, audio included.
    """
    manifests, normalise = Manifests(), NORMALISERS[recipe.data.normaliser]
    corpus = plan.corpus(recipe, manifests)
    index = phrase_index(read_lexicon(recipe.data.lexicon), normalise) if recipe.data.lexicon else None
    findings = [_base(recipe), *_text(corpus)]
    if corpus.remark:
        findings.append(Finding("warn", "text", f"{corpus.remark}; {plan.WRITE}"))
    if index:
        findings.append(_lexicon(recipe, manifests, corpus, index))
    if recipe.data.dev:
        findings.append(_coverage(recipe, manifests, corpus, index))
    for problem in fusion_problems(recipe, [plan.fusion_weights(recipe)]):
        findings.append(Finding("fail", "fusion", problem))
    if plan.learns_from_pairs(recipe) and not recipe.data.paired:
        findings.append(Finding("fail", "paired", "none; name data.paired, or leave out the section project"))
    for name, key in {**plan.SETS, "paired": "paired", "replay": "source_replay", "guard": "source_dev"}.items():
        if path := getattr(recipe.data, key):
            utterances = manifests.spoken(path)
            manifests.seconds(path)  # raises where audio cannot be read
            findings.append(_utterances(name, utterances, index, normalise))
            if name in TRAINED and (remark := plan.written(recipe, [normalise(u.text) for u in utterances]).remark()):
                findings.append(Finding("warn", name, f"{remark}; {plan.WRITE}"))
        elif name in ("replay", "guard"):
            way_out = f"name data.{key}, paired audio of the source domain"
            findings.append(Finding("warn", name, f"none; nothing prevents forgetting: {way_out}"))
    return findings


def _utterances(
    name: str, utterances: Sequence[Utterance], index: PhraseIndex | None, normalise: Callable[[str], str]
) -> Finding:
    """The number of utterances of a set and of their annotated mentions, and a warning if some cannot be scored."""
    placed, unplaced = 0, []
    for utterance in utterances:
        if utterance.entities:
            mentions, without = reference_mentions(words_of(normalise(utterance.text)), utterance, index, normalise)
            placed, unplaced = placed + len(mentions), unplaced + without
    counts = f"{len(utterances):,} utterances" + (f", {placed:,} mentions" if placed else "")
    if not unplaced:
        return Finding("ok", name, counts)
    return Finding("warn", name, f"{counts}; {without_place(unplaced)}")


def _base(recipe: Recipe) -> Finding:
    """The name, origin and size of the base."""
    origin = "built in" if recipe.base in built_in() else "folder"
    size = f"{parameters(described(recipe.base)) / 1e6:,.1f} M parameters"
    return Finding("ok", "base", f"{recipe.base} ({origin}), {size}")


def _text(corpus: Corpus) -> list[Finding]:
    """The size of the text and of its sample, and a warning if it contains transcripts of the sets."""
    lines = corpus.train + corpus.dev
    words = sum(len(words_of(line)) for line in lines)
    counts = f"{len(lines):,} lines, {words:,} words; {corpus.duplicates:,} duplicates dropped"
    findings = [Finding("ok", "text", corpus.sampled)] if corpus.sampled else []
    findings.append(Finding("ok", "text", counts))
    if corpus.leaks:
        leaks = f"{len(corpus.leaks):,} lines are also transcripts of a set, such as {corpus.leaks[0]!r}"
        findings.append(Finding("warn", "leak", f"{leaks}; they are dropped"))
    return findings


def _lexicon(recipe: Recipe, manifests: Manifests, corpus: Corpus, index: PhraseIndex) -> Finding:
    """The size of the lexicon, and how many of its entities occur in the text and in the test set."""
    normalise, lexicon = NORMALISERS[recipe.data.normaliser], read_lexicon(recipe.data.lexicon)
    in_text = entities_in(corpus.train + corpus.dev, index, normalise)
    types = len({entry.type for entry in lexicon.entries})
    counts = f"{len(lexicon.entries):,} entries, {types} types; {len(in_text):,} occur in the text"
    if recipe.data.test:
        transcripts = [normalise(u.text) for u in manifests.spoken(recipe.data.test)]
        counts += f", {len(entities_in(transcripts, index, normalise)):,} in the test set"
    return Finding("ok" if in_text else "warn", "lexicon", counts)


def _coverage(recipe: Recipe, manifests: Manifests, corpus: Corpus, index: PhraseIndex | None) -> Finding:
    """The share of words of the development set, outside of its mentions, that do not occur in the text."""
    normalise = NORMALISERS[recipe.data.normaliser]
    known = {word for line in corpus.train + corpus.dev for word in words_of(line)}
    words, uncovered = 0, Counter()
    for utterance in manifests.utterances(recipe.data.dev):
        transcript = words_of(normalise(utterance.text))
        mentions, _ = reference_mentions(transcript, utterance, index, normalise)
        in_mentions = {place for mention in mentions for place in range(mention.start, mention.end)}
        others = [word for place, word in enumerate(transcript) if place not in in_mentions]
        words += len(others)
        uncovered.update(word for word in others if word not in known)
    share = uncovered.total() / max(1, words)
    text = f"{share:.0%} of the words of {recipe.data.dev.name} outside of mentions do not occur in the text"
    if uncovered:
        text += ", such as " + ", ".join(repr(word) for word, _ in uncovered.most_common(3))
    if share > UNCOVERED:
        return Finding("warn", "words", f"{text}; an LM of it covers too little: give more varied text")
    return Finding("ok", "words", text)


def check_base(name: str, audio: Path | None, device: str, dtype: str, language: str) -> list[Finding]:
    """Load a base, find its slot, time a training step, and transcribe `audio` unless it is None.

    name, device, dtype, language: as in `load_speech_llm`.
    """
    from adapt.model.load import load_speech_llm

    kind = config_of(path := find_base(name)).get("model_type", "of no type")
    started = time.perf_counter()
    speech_llm = load_speech_llm(name, device, dtype=dtype, language=language)
    seconds = time.perf_counter() - started
    findings = [Finding("ok", "base", f"{kind} in {path}"), _weights(speech_llm, seconds), *_slot(speech_llm)]
    findings.append(_stage_2_time(speech_llm))
    if audio:
        findings += _transcript(speech_llm, audio)
    return [*findings, Finding("ok", "memory", _memory(speech_llm.device))]


def _weights(speech_llm: SpeechLLM, seconds: float) -> Finding:
    """The size, data type and device of a base that was loaded in `seconds`."""
    model = speech_llm.model
    decoder = sum(p.numel() for p in model.get_decoder().parameters())
    count = sum(p.numel() for p in model.parameters())
    size = f"{count / 1e6:,.1f} M parameters, {decoder / 1e6:,.1f} M of them in the decoder"
    loaded = f"{str(model.dtype)[6:]} on {speech_llm.device}, loaded in {seconds:.0f} s"
    return Finding("ok", "weights", f"{size}; {loaded}")


def _slot(speech_llm: SpeechLLM) -> list[Finding]:
    """The prompt around the slot, and the tokens that end a transcript."""
    before, after = (_short(speech_llm.tokenizer.decode(ids)) for ids in (speech_llm.before, speech_llm.after))
    ends = ", ".join(repr(speech_llm.tokenizer.decode([i])) for i in speech_llm.ends)
    return [
        Finding("ok", "prompt", f"{before} [slot of width {speech_llm.hidden}] {after}"),
        Finding("ok", "end", ends),
    ]


def _stage_2_time(speech_llm: SpeechLLM) -> Finding:
    """An estimate of the duration of stage 2, from one forward pass."""
    import torch

    from adapt.model.packing import target_logits

    slots = [speech_llm.empty_slot.new_zeros(50, speech_llm.hidden) for _ in range(SENTENCES)]
    targets = [speech_llm.target_ids("word " * WORDS)] * SENTENCES
    with torch.no_grad():
        target_logits(speech_llm, slots, targets)
        started = time.perf_counter()
        logits, _ = target_logits(speech_llm, slots, targets)
        finite = bool(logits.isfinite().all())
        seconds = time.perf_counter() - started
    if not finite:
        return Finding("fail", "stage 2", "logits are not finite; load the base with another dtype")
    # Forward, backward through the layers, and the forward pass of the base on replayed audio.
    minutes = 400 * 32 / SENTENCES * seconds * 3 / 60
    return Finding(
        "ok", "stage 2", f"about {max(1, round(minutes)):,} min for 400 steps of 32 sentences of {WORDS} words"
    )


def _transcript(speech_llm: SpeechLLM, audio: Path) -> list[Finding]:
    """The number of audio embeddings of a recording, and its transcript."""
    from adapt.decode.beam_search import generate
    from adapt.model.features import SAMPLE_RATE, read_segments

    segments = list(read_segments(audio, speech_llm.max_seconds))
    embeddings = speech_llm.audio_embeddings(segments)
    hypotheses = generate(speech_llm, [speech_llm.prompt(slot) for slot in embeddings], 1)
    text = " ".join(speech_llm.decode(best) for best, *_ in hypotheses)
    seconds = sum(map(len, segments)) / SAMPLE_RATE
    return [
        Finding("ok", "slot", f"{sum(map(len, embeddings))} audio embeddings for {seconds:.1f} s of audio"),
        Finding("ok", audio.name, text or "(nothing)"),
    ]


def _short(text: str) -> str:
    """The text in quotes, with its middle left out if it is long."""
    return repr(text if len(text) <= 60 else f"{text[:25]}...{text[-25:]}")


def _memory(device: torch.device) -> str:
    """The most memory that the process has used."""
    import torch

    # ru_maxrss is in KiB, but on macOS in bytes
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    text = f"{used / 2**30:.1f} GiB at most"
    if device.type == "cuda":
        text += f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB of CUDA's"
    return text
