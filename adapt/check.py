"""What there is to know before spending: of a recipe, from its files alone; of a base, by loading it."""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from adapt.model.bases import built_in, config_of, find_base, parameters
from adapt.recipe.domain import Recipe
from adapt.score.entity import place_entities
from adapt.stages.plan import SETS, corpus_of, projects, with_audio
from adapt.text.corpus import Corpus, durations, read_manifest
from adapt.text.lexicon import PhraseIndex, entities_in, find_mentions, phrase_index, read_lexicon
from adapt.text.normalise import NORMALISERS

SENTENCES, WORDS = 8, 12  # of the batch that is timed
STRANGE = 0.1  # share of words that the text lacks, from which it is too narrow (recipes/RESULTS.md: 0.23 was)


@dataclass(frozen=True)
class Finding:
    """A line of `adapt check`. verdict: ok, warn or fail."""

    verdict: str
    about: str
    text: str


def check(recipe: Recipe) -> list[Finding]:
    """What there is to know before spending: counts, duplicates, leaks, coverage of words and of the lexicon.

    Raises DataError for files that cannot be read, the audio among them.
    """
    normalise = NORMALISERS[recipe.data.normaliser]
    where = "built in" if recipe.base in built_in() else "folder"
    size = f"{parameters(find_base(recipe.base)) / 1e6:,.1f} M parameters"
    findings = [Finding("ok", "base", f"{recipe.base} ({where}), {size}")]
    corpus = corpus_of(recipe)
    words = sum(len(line.split()) for line in corpus.train + corpus.dev)
    total = len(corpus.train) + len(corpus.dev)
    findings.append(
        Finding("ok", "text", f"{total:,} lines, {words:,} words; {corpus.duplicates:,} duplicates dropped")
    )
    if corpus.leaks:
        told = f"{len(corpus.leaks):,} lines are also in a scored set, such as {corpus.leaks[0]!r}; they are dropped"
        findings.append(Finding("warn", "leak", told))
    index = None
    if recipe.data.lexicon:
        lexicon = read_lexicon(recipe.data.lexicon)
        index = phrase_index(lexicon, normalise)
        in_text = entities_in(corpus.train + corpus.dev, index, normalise)
        types = len({entry.type for entry in lexicon.entries})
        told = f"{len(lexicon.entries):,} entries, {types} types; {len(in_text):,} occur in the text"
        if recipe.data.test:
            tested = entities_in([u.text for u in read_manifest(recipe.data.test)], index, normalise)
            told += f", {len(tested):,} in the test set"
        findings.append(Finding("ok" if in_text else "warn", "lexicon", told))
    if recipe.data.dev:
        findings.append(_words(recipe, corpus, index))
    if projects(recipe) and not recipe.data.paired:
        findings.append(Finding("fail", "paired", "none; name data.paired, or leave out the section project"))
    for name, key in {**SETS, "paired": "paired", "replay": "source_replay", "guard": "source_dev"}.items():
        if path := getattr(recipe.data, key):
            utterances = with_audio(read_manifest(path))
            durations(utterances)
            mentions = sum(len(u.entities or ()) for u in utterances)
            told = f"{len(utterances):,} utterances" + (f", {mentions:,} mentions" if mentions else "")
            findings.append(Finding("ok", name, told))
        elif name in ("replay", "guard"):
            way_out = f"name data.{key}, paired audio of the source domain"
            findings.append(Finding("warn", name, f"none; forgetting will not be held back: {way_out}"))
    return findings


def _words(recipe: Recipe, corpus: Corpus, index: PhraseIndex | None) -> Finding:
    """How many of the development set's words, those of its mentions apart, the text does not have."""
    normalise = NORMALISERS[recipe.data.normaliser]
    known = {word for line in corpus.train + corpus.dev for word in line.split()}
    words, strange = 0, Counter()
    for utterance in read_manifest(recipe.data.dev, need_audio=False):
        said = normalise(utterance.text).split()
        if utterance.entities is not None:
            mentions = place_entities(said, utterance.entities, normalise)[0]
        else:
            mentions = find_mentions(said, index) if index else []
        named = {place for mention in mentions for place in range(mention.start, mention.end)}
        others = [word for place, word in enumerate(said) if place not in named]
        words += len(others)
        strange.update(word for word in others if word not in known)
    share = strange.total() / max(1, words)
    told = f"{share:.0%} of the words of {recipe.data.dev.name}, names apart, are nowhere in the text"
    if strange:
        told += ", such as " + ", ".join(repr(word) for word, _ in strange.most_common(3))
    too_narrow = share > STRANGE
    told += "; an LM of it knows too little: give more varied text" if too_narrow else ""
    return Finding("warn" if too_narrow else "ok", "words", told)


def check_base(name: str, audio: Path | None, device: str, dtype: str, language: str) -> list[Finding]:
    """Load a base, find its slot, time it, and transcribe `audio` if there is any."""
    import torch

    from adapt.decode.beam_search import generate
    from adapt.model.features import read_segments
    from adapt.model.load import load_speech_llm

    kind = config_of(path := find_base(name)).get("model_type", "of no type")
    findings = [Finding("ok", "base", f"{kind} in {path}")]
    started = time.perf_counter()
    llm = load_speech_llm(name, device, dtype=dtype, language=language)
    took = time.perf_counter() - started
    decoder = sum(p.numel() for p in llm.model.get_decoder().parameters())
    count = sum(p.numel() for p in llm.model.parameters())
    told = f"{count / 1e6:,.1f} M parameters, {decoder / 1e6:,.1f} M of them the decoder's"
    findings.append(
        Finding("ok", "weights", f"{told}; {str(llm.model.dtype)[6:]} on {llm.device}, loaded in {took:.0f} s")
    )
    before, after = (llm.tokenizer.decode(ids) for ids in (llm.before, llm.after))
    findings.append(Finding("ok", "prompt", f"{_short(before)} [slot of {llm.hidden}] {_short(after)}"))
    findings.append(Finding("ok", "end", ", ".join(repr(llm.tokenizer.decode([i])) for i in llm.ends)))
    rows, mask, _ = llm.training_batch(
        [llm.empty_slot.new_zeros(50, llm.hidden)] * SENTENCES, [llm.target_ids("word " * WORDS)] * SENTENCES
    )
    with torch.no_grad():
        llm.forward(rows, mask)
        started = time.perf_counter()
        logits = llm.forward(rows, mask)
        finite = bool(logits.isfinite().all())
        once = time.perf_counter() - started
    # Forward, backward with respect to what is below, and the base's own forward pass on replayed audio.
    minutes = 400 * 32 / SENTENCES * once * 3 / 60
    told = f"about {max(1, round(minutes)):,} min for 400 steps of 32 sentences of {WORDS} words"
    findings.append(Finding("ok" if finite else "fail", "stage 2", told if finite else "logits are not finite"))
    if audio:
        segments = list(read_segments(audio, llm.max_seconds))
        slots = llm.audio_embeddings(segments)
        texts = [llm.decode(best) for best, *_ in generate(llm, [llm.prompt(slot) for slot in slots], 1)]
        seconds = sum(map(len, segments)) / 16_000
        findings.append(Finding("ok", "slot", f"{sum(map(len, slots))} vectors for {seconds:.1f} s of audio"))
        findings.append(Finding("ok", audio.name, " ".join(texts) or "(nothing)"))
    return [*findings, Finding("ok", "memory", _memory(llm.device))]


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:25]}...{text[-25:]}")


def _memory(device) -> str:
    import torch

    # ru_maxrss is in KiB, but on macOS in bytes
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    told = f"{used / 2**30:.1f} GiB at most"
    return told + (
        f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB of CUDA's" if device.type == "cuda" else ""
    )
