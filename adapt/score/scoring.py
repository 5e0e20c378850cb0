"""Score several systems on several sets, with intervals and significance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from adapt.errors import DataError
from adapt.score.bootstrap import ENOUGH, interval, p_value, ratio, resample
from adapt.score.conventions import CONVENTIONS
from adapt.score.counting import Rules, Totals, count_set
from adapt.score.results import Change, Confusion, Row, Scores
from adapt.text.lexicon import Lexicon
from adapt.text.manifest import Utterance
from adapt.text.mentions import phrase_index, without_place
from adapt.text.normalise import NORMALISERS, is_latin
from adapt.text.words import has_characters


def score_systems(
    sets: Mapping[str, Sequence[Utterance]],
    hyps: Mapping[str, Mapping[str, Mapping[str, str]]],
    lexicon: Lexicon | None,
    normaliser: str = "basic",
    seen: frozenset[str] | None = None,
    resamples: int = 1000,
    seed: int = 1,
    convention: str = "adapt",
    lenient: bool = False,
) -> Scores:
    """Score the systems of every set; the first system of a set is its baseline.

    hyps: set -> system -> id -> text. lexicon: None: none. Mentions come from the entities of the utterances or, where
    those are None, from the lexicon; without mentions, EER is None. seen: the normalised written forms of the entities
    that the domain text contains (`lexicon.entities_in`); None: no split into seen and unseen. resamples, seed: of the
    bootstrap. convention: one of CONVENTIONS. lenient: True scores only the utterances that the set and all its systems
    have in common. Raises DataError for an unknown normaliser or convention, for an empty set and, unless lenient, for
    hypotheses whose ids are not those of the set.
    """
    for name, value, known in (("normaliser", normaliser, NORMALISERS), ("convention", convention, CONVENTIONS)):
        if value not in known:
            raise DataError(f"score: unknown {name} {value!r}; choose one of {', '.join(known)}")
    if problems := list(_mismatches(sets, hyps, lenient)):
        raise DataError(*problems)
    normalise = NORMALISERS[normaliser]
    rules = Rules(normalise, phrase_index(lexicon, normalise) if lexicon else None, seen, convention)
    rows: list[Row] = []
    errors: list[Confusion] = []
    changes: list[Change] = []
    scored, references, notes = [], [], []
    for name, systems in hyps.items():
        # Sorted, so that the order of a manifest changes no interval.
        utterances = sorted(_common(sets[name], systems.values()), key=lambda u: u.id)
        totals, unplaced = count_set(utterances, systems, rules)
        annotated = rules.index is not None or any(u.entities is not None for u in utterances)
        rows += _rows(name, totals, annotated, len(unplaced), rules, resamples, seed)
        if unplaced:
            notes.append(f"{name}: {without_place(unplaced)}")
        for system, total in totals.items():
            errors += [Confusion(name, system, *key, n) for key, n in total.confused.most_common()]
            changes += _changes(name, system, total.changed)
        scored.append(len(utterances))
        references.append(len(sets[name]))
    lenient_of = references if lenient else None
    texts = [utterance.text for name in hyps for utterance in sets[name]]
    if normaliser == "english" and (foreign := [text for text in texts if not is_latin(text)]):
        counted = f"{len(foreign):,} of {len(texts):,} references are in another script, such as {foreign[0]!r}"
        notes.append(f"the normaliser english is for English, and drops letters of others; {counted}: choose basic")
    characters = any(map(has_characters, texts))
    if characters:
        notes.append("WER counts each character of Chinese, Japanese, Thai and other scripts without spaces as a word")
    signed = signature(normaliser, lexicon, scored, resamples, seed, convention, lenient_of, characters)
    return Scores(signed, tuple(rows), resamples, tuple(errors), tuple(changes), tuple(notes))


def _common(utterances: Sequence[Utterance], systems: Collection[Mapping[str, str]]) -> list[Utterance]:
    """The utterances that have a hypothesis of every system."""
    return [u for u in utterances if all(u.id in texts for texts in systems)]


def _mismatches(sets: Mapping, hyps: Mapping, lenient: bool) -> Iterator[str]:
    """The problems of sets and hypotheses that do not belong together."""
    for name, systems in hyps.items():
        if not sets.get(name):
            yield f"score: set {name!r} has hypotheses but no utterances; give its manifest"
            continue
        if lenient:
            if not _common(sets[name], systems.values()):
                yield f"score: {name}: no utterance has a hypothesis of every system; give files of the same set"
            continue
        ids = {utterance.id for utterance in sets[name]}
        for system, texts in systems.items():
            for problem, wrong in (("missing", ids - texts.keys()), ("unknown", texts.keys() - ids)):
                if wrong:
                    others = f" and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
                    yield (
                        f"score: {name}, {system}: hypothesis of {min(wrong)!r}{others} {problem}; transcribe the same"
                        " manifest again, or score the utterances that all files have in common (--lenient)"
                    )


def _changes(name: str, system: str, changed: Counter) -> list[Change]:
    """The changes of `Totals.changed`, one for each entity."""
    return [
        Change(name, system, kind, entity, changed[kind, entity, "gained"], changed[kind, entity, "lost"])
        for kind, entity in sorted({(kind, entity) for kind, entity, _ in changed})
    ]


def _rows(
    name: str,
    totals: Mapping[str, Totals],
    annotated: bool,
    unplaced: int,
    rules: Rules,
    resamples: int,
    seed: int,
) -> list[Row]:
    """The rows of one set, the baseline first."""
    rows: list[Row] = []
    for system, total in totals.items():
        # Resampled with the baseline alone, so that other systems in the table change neither interval nor p-value.
        stats = np.hstack([totals[rows[0].system].stats, total.stats]) if rows else total.stats
        sums = resample(stats, resamples, seed).T
        rows.append(_row(name, system, total, annotated, unplaced, rules, sums, rows[0] if rows else None))
    return rows


def _row(
    name: str,
    system: str,
    total: Totals,
    annotated: bool,
    unplaced: int,
    rules: Rules,
    sums: np.ndarray,
    baseline: Row | None,
) -> Row:
    """The figures of one system on one set.

    sums: of word errors, words, wrong mentions and mentions, (columns, resamples): 4 columns of the system itself or,
    with a baseline, 4 of the baseline and then 4 of the system. Which figures are None depends on `annotated`,
    `rules.index` and `rules.seen`, and intervals and p-values on ENOUGH.
    """
    base, system_sums = sums[:4], sums[-4:]
    n, lexicon, split = total.counts, rules.index is not None, rules.seen is not None
    wer, eer = ratio(total.word_errors, n["words"]), ratio(n["wrong"], n["mentions"])
    p_wer = p_eer = None
    enough, enough_with_mentions = len(total.stats) >= ENOUGH, np.count_nonzero(total.stats[:, 3]) >= ENOUGH
    if baseline and enough and wer is not None:
        p_wer = p_value((base[0], base[1]), (system_sums[0], system_sums[1]), wer - baseline.wer)
    if baseline and enough_with_mentions and eer is not None:
        p_eer = p_value((base[2], base[3]), (system_sums[2], system_sums[3]), eer - baseline.eer)
    unbiased = total.word_errors - n["biased_errors"] - n["forgiven"], n["words"] - n["biased_words"]
    unseen = n["wrong"] - n["wrong_seen"], n["mentions"] - n["mentions_seen"]
    right, alarms = n["mentions"] - n["wrong"], n["false_alarms"]
    by_type = dict(sorted(total.by_type.items()))
    return Row(
        set=name,
        system=system,
        wer=wer,
        wer_ci=interval(system_sums[0], system_sums[1]) if enough else None,
        cer=ratio(n["char_errors"], n["chars"]),
        eer=eer,
        eer_ci=interval(system_sums[2], system_sums[3]) if enough_with_mentions else None,
        eer_seen=ratio(n["wrong_seen"], n["mentions_seen"]) if split else None,
        eer_unseen=ratio(*unseen) if split else None,
        u_wer=ratio(*unbiased) if annotated else None,
        b_wer=ratio(n["biased_errors"], n["biased_words"]),
        precision=ratio(right, right + alarms) if lexicon else None,
        recall=ratio(right, n["mentions"]),
        # 2 PR / (P + R), written in counts, so that it is 0 and not undefined if no mention is right.
        f1=ratio(2 * right, right + alarms + n["mentions"]) if lexicon and n["mentions"] else None,
        false_alarms_per_1k=ratio(1000 * alarms, n["words"]) if lexicon else None,
        by_type={kind: counts["wrong"] / counts["mentions"] for kind, counts in by_type.items()},
        counts={"utterances": len(total.stats), **n, "by_type": by_type, "unplaced_entities": unplaced},
        p_wer=p_wer,
        p_eer=p_eer,
    )


def signature(
    normaliser: str,
    lexicon: Lexicon | None,
    utterances: Sequence[int],
    resamples: int,
    seed: int,
    convention: str = "adapt",
    references: Sequence[int] | None = None,
    characters: bool = False,
) -> str:
    """How figures were computed, in a line: two figures can be compared if their signatures are the same.

    utterances: the numbers of utterances scored, set by set. convention: named unless it is `adapt`. references: in
    lenient scoring, the numbers of references, scored or not; None: not lenient. characters: whether characters of
    scripts without spaces are counted as words.

    >>> signature("basic", Lexicon("music", "3f9c1e", ()), [300, 200], 1000, 1).rpartition("|")[0]
    'wer|norm:basic|lex:music@3f9c1e|utts:300+200|bs:1000|seed:1'
    >>> signature("none", None, [290], 1000, 1, "is21", [300]).rpartition("|")[0]
    'wer|conv:is21|norm:none|lex:none|utts:290|lenient:of 300|bs:1000|seed:1'
    """
    try:
        release = version("adapt-asr")
    except PackageNotFoundError:
        release = "source"
    parts = ["wer", *([] if convention == "adapt" else [f"conv:{convention}"]), f"norm:{normaliser}"]
    parts += [f"lex:{lexicon.name}@{lexicon.sha}" if lexicon else "lex:none"]
    parts += ["tok:words+characters"] if characters else []
    parts += [f"utts:{'+'.join(map(str, utterances))}"]
    parts += [] if references is None else [f"lenient:of {'+'.join(map(str, references))}"]
    return "|".join([*parts, f"bs:{resamples}", f"seed:{seed}", f"v:{release}"])
