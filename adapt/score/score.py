"""All scores of several systems on several sets, with intervals, as data and as a text table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from adapt.errors import DataError
from adapt.score.compare import interval, p_value, ratio, resample, signature
from adapt.score.entity import entity_errors, locate
from adapt.score.wer import align, count
from adapt.text.corpus import Utterance
from adapt.text.lexicon import Lexicon, Mention, PhraseIndex, find_mentions, phrase_index
from adapt.text.normalise import NORMALISERS

Interval = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """Scores of one system on one set, fractions; None is a figure that cannot be had ("n/a").

    `p_wer` and `p_eer` compare with the set's first system, which has None itself. `counts` holds the
    numerators and denominators: substitutions, words, mentions, …, and the mentions by type.
    """

    set: str
    system: str
    wer: float | None
    wer_ci: Interval | None
    cer: float | None
    eer: float | None
    eer_ci: Interval | None
    eer_seen: float | None
    eer_unseen: float | None
    u_wer: float | None
    b_wer: float | None
    false_alarms_per_1k: float | None
    by_type: dict[str, float]
    counts: dict
    p_wer: float | None
    p_eer: float | None


@dataclass(frozen=True)
class Scores:
    """Rows set by set, baseline first, and the signature of how they were made."""

    signature: str
    rows: tuple[Row, ...]
    resamples: int

    def to_json(self) -> dict:
        """Plain data for `json.dumps`: `{"signature", "rows": [{"set", "system", "wer", …}]}`."""
        rows = [
            {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(row).items()}
            for row in self.rows
        ]
        return {"signature": self.signature, "rows": rows}

    def table(self) -> str:
        """Text table in percent: ± half of the 95 % interval, `*` where it differs from the baseline."""
        types = sorted({name for row in self.rows for name in row.by_type})
        split = any(row.eer_seen is not None or row.eer_unseen is not None for row in self.rows)
        head = ["set", "system", "WER", "EER", *(["seen", "unseen"] if split else []), *types]
        if all(row.eer is None for row in self.rows):
            head = head[:3]
        lines = [head]
        for row in self.rows:
            figures = [_figure(row.wer, row.wer_ci, row.p_wer), _figure(row.eer, row.eer_ci, row.p_eer)]
            figures += [_percent(row.eer_seen), _percent(row.eer_unseen)] if split else []
            figures += [_percent(row.by_type.get(name)) for name in types]
            lines.append([row.set, row.system, *figures][: len(head)])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        form = "  ".join(f"{{:{'<' if i < 2 else '>'}{width}}}" for i, width in enumerate(widths))
        text = [form.format(*line) for line in lines]
        note = []
        if any(p is not None and p < 0.05 for row in self.rows for p in (row.p_wer, row.p_eer)):
            bases = {row.set: row.system for row in reversed(self.rows)}
            base = bases.popitem()[1] if len(set(bases.values())) == 1 else "the first system of its set"
            note = [f"* differs from {base}: {self.resamples:,} paired resamples, p < 0.05"]
        return "\n".join(line.rstrip() for line in [*text, *note, self.signature])


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"


def _figure(value: float | None, ci: Interval | None, p: float | None) -> str:
    if value is None or ci is None:
        return "n/a" + " " * 8
    star = "*" if p is not None and p < 0.05 else " "
    return f"{100 * value:.1f} ± {50 * (ci[1] - ci[0]):3.1f} {star}"


def score(
    sets: Mapping[str, Sequence[Utterance]],
    hyps: Mapping[str, Mapping[str, Mapping[str, str]]],
    lexicon: Lexicon | None,
    normaliser: str = "basic",
    seen: frozenset[str] | None = None,
    resamples: int = 1000,
    seed: int = 1,
) -> Scores:
    """Score the systems of every set; the first system of a set is its baseline.

    `hyps` is set -> system -> id -> text. Entities come from the utterances, or, where those hold None, from
    the lexicon; with neither, and where no mention occurs, EER is None. `seen` are normalised written forms
    of the entities that the domain text holds (`lexicon.entities_in`); None: no split. Raises DataError for
    an unknown normaliser, an empty set, and hypotheses whose ids are not those of the set.
    """
    if normaliser not in NORMALISERS:
        raise DataError(f"score: unknown normaliser {normaliser!r}; choose one of {', '.join(NORMALISERS)}")
    if problems := list(_mismatches(sets, hyps)):
        raise DataError(*problems)
    normalise = NORMALISERS[normaliser]
    index = phrase_index(lexicon, normalise) if lexicon else None
    rows: list[Row] = []
    for name, systems in hyps.items():
        rows += _score_set(name, sets[name], systems, index, normalise, seen, resamples, seed)
    sizes = [len(sets[name]) for name in hyps]
    return Scores(signature(normaliser, lexicon, sizes, resamples, seed), tuple(rows), resamples)


def _mismatches(sets: Mapping, hyps: Mapping) -> Iterator[str]:
    for name, systems in hyps.items():
        if not sets.get(name):
            yield f"score: set {name!r} has hypotheses but no utterances; give its manifest"
            continue
        ids = {utterance.id for utterance in sets[name]}
        for system, texts in systems.items():
            for problem, found in (("missing", ids - texts.keys()), ("unknown", texts.keys() - ids)):
                if found:
                    more = f" and {len(found) - 1:,} more" if len(found) > 1 else ""
                    yield (
                        f"score: {name}, {system}: hypothesis of {min(found)!r}{more} {problem};"
                        " transcribe the same manifest again"
                    )


def _score_set(
    name: str,
    utterances: Sequence[Utterance],
    systems: Mapping[str, Mapping[str, str]],
    index: PhraseIndex | None,
    normalise: Callable[[str], str],
    seen: frozenset[str] | None,
    resamples: int,
    seed: int,
) -> list[Row]:
    # Sorted, so that the order of a manifest changes no interval.
    utterances = sorted(utterances, key=lambda u: u.id)
    refs, mentions, unplaced = [], [], 0
    for utterance in utterances:
        ref = tuple(normalise(utterance.text).split())
        found, lost = find_mentions(ref, index) if index else [], 0
        if utterance.entities is not None:
            found, lost = locate(ref, utterance.entities, normalise)
        refs.append(ref)
        mentions.append(found)
        unplaced += lost
    annotated = index is not None or any(u.entities is not None for u in utterances)

    tallies = {}
    for system, texts in systems.items():
        hyps = [tuple(normalise(texts[u.id]).split()) for u in utterances]
        counts, stats = _tally(refs, hyps, mentions, index, seen)
        tallies[system] = {"utterances": len(utterances), **counts, "unplaced_entities": unplaced}, stats
    if not tallies:
        return []
    sums = resample(np.hstack([stats for _, stats in tallies.values()]), resamples, seed)
    columns = np.split(sums.T, len(tallies))

    rows: list[Row] = []
    base = columns[0]
    for (system, (n, _)), now in zip(tallies.items(), columns, strict=True):
        errors = n["substitutions"] + n["deletions"] + n["insertions"]
        wer, eer = ratio(errors, n["words"]), ratio(n["wrong"], n["mentions"])
        p_wer = p_eer = None
        if rows and wer is not None:
            p_wer = p_value((base[0], base[1]), (now[0], now[1]), wer - rows[0].wer)
        if rows and eer is not None:
            p_eer = p_value((base[2], base[3]), (now[2], now[3]), eer - rows[0].eer)
        unbiased = errors - n["biased_errors"], n["words"] - n["biased_words"]
        unseen = n["wrong"] - n["wrong_seen"], n["mentions"] - n["mentions_seen"]
        rows.append(
            Row(
                set=name,
                system=system,
                wer=wer,
                wer_ci=interval(now[0], now[1]),
                cer=ratio(n["char_errors"], n["chars"]),
                eer=eer,
                eer_ci=interval(now[2], now[3]),
                eer_seen=None if seen is None else ratio(n["wrong_seen"], n["mentions_seen"]),
                eer_unseen=None if seen is None else ratio(*unseen),
                u_wer=ratio(*unbiased) if annotated else None,
                b_wer=ratio(n["biased_errors"], n["biased_words"]),
                false_alarms_per_1k=ratio(1000 * n["false_alarms"], n["words"]) if index else None,
                by_type={kind: c["wrong"] / c["mentions"] for kind, c in n["by_type"].items()},
                counts=n,
                p_wer=p_wer,
                p_eer=p_eer,
            )
        )
    return rows


_COUNTED = (
    *("words", "substitutions", "deletions", "insertions", "chars", "char_errors"),
    *("mentions", "wrong", "mentions_seen", "wrong_seen", "biased_words", "biased_errors", "false_alarms"),
)


def _tally(
    refs: Sequence[tuple[str, ...]],
    hyps: Sequence[tuple[str, ...]],
    mentions: Sequence[Sequence[Mention]],
    index: PhraseIndex | None,
    seen: frozenset[str] | None,
) -> tuple[dict, np.ndarray]:
    """Totals of one system, and per utterance what the bootstrap needs: errors, words, wrong, mentions."""
    total = dict.fromkeys(_COUNTED, 0)
    by_type: dict[str, dict[str, int]] = {}
    stats = np.zeros((len(refs), 4), dtype=np.int64)
    for i, (ref, hyp) in enumerate(zip(refs, hyps, strict=True)):
        ops = align(ref, hyp)
        counts = count(ref, hyp, ops)
        for key, value in vars(counts).items():
            total[key] += value
        entities = entity_errors(ref, hyp, ops, mentions[i], index)
        total["biased_words"] += entities.biased_words
        total["biased_errors"] += entities.biased_errors
        total["false_alarms"] += entities.false_alarms or 0
        for judged in entities.judged:
            own = ref[judged.mention.start : judged.mention.end]
            # The domain text may write what the speaker says in one of its other forms.
            forms = (index.forms.get(own) if index else None) or (own,)
            known = seen is not None and any(" ".join(form) in seen for form in forms)
            of_type = by_type.setdefault(judged.mention.type, {"mentions": 0, "wrong": 0})
            for counter in (total, of_type):
                counter["mentions"] += 1
                counter["wrong"] += judged.wrong
            total["mentions_seen"] += known
            total["wrong_seen"] += known and judged.wrong
        errors = counts.substitutions + counts.deletions + counts.insertions
        wrong = sum(judged.wrong for judged in entities.judged)
        stats[i] = errors, counts.words, wrong, len(entities.judged)
    return {**total, "by_type": dict(sorted(by_type.items()))}, stats
