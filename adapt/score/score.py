"""All scores of several systems on several sets, with intervals, as data and as a text or Markdown table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from adapt.errors import DataError
from adapt.score.compare import interval, p_value, ratio, resample, signature
from adapt.score.entity import Judged, entity_errors, place_entities, rare_word_errors
from adapt.score.wer import align, align_is21, count
from adapt.text.corpus import Utterance
from adapt.text.lexicon import Lexicon, Mention, PhraseIndex, find_mentions, phrase_index
from adapt.text.normalise import NORMALISERS

Interval = tuple[float, float]
# adapt: least edits, and words inserted in an entity are errors on biased words (`entity.entity_errors`);
# is21: weights and counting of fbai-speech's is21_deep_bias (`wer.align_is21`, `entity.rare_word_errors`).
CONVENTIONS = ("adapt", "is21")
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Row:
    """Scores of one system on one set, fractions; None is a figure that cannot be had ("n/a").

    `precision` and `f1` need a lexicon: what is heard of it and not said is a false alarm. `p_wer` and `p_eer`
    compare with the set's first system, which has None itself. `counts` holds the numerators and denominators:
    substitutions, words, mentions, …, and the mentions by type.
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
    precision: float | None
    recall: float | None
    f1: float | None
    false_alarms_per_1k: float | None
    by_type: dict[str, float]
    counts: dict
    p_wer: float | None
    p_eer: float | None


@dataclass(frozen=True)
class Confusion:
    """A wrong mention: its entity, the words that were said, those that were heard in their place, how often."""

    set: str
    system: str
    type: str
    entity: str
    said: str
    heard: str
    count: int


@dataclass(frozen=True)
class Change:
    """How often an entity is right where the set's first system has it wrong (`gained`), and the other way."""

    set: str
    system: str
    type: str
    entity: str
    gained: int
    lost: int


@dataclass(frozen=True)
class Scores:
    """Rows set by set, baseline first, and the signature of how they were made; the most frequent errors first."""

    signature: str
    rows: tuple[Row, ...]
    resamples: int
    errors: tuple[Confusion, ...] = ()
    changes: tuple[Change, ...] = ()

    def to_json(self) -> dict:
        """Plain data for `json.dumps`: `{"signature", "rows": [{"set", …}], "sentences", "errors", "changes"}`."""
        rows = [
            {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(row).items()}
            for row in self.rows
        ]
        listed = {"errors": [vars(e) for e in self.errors], "changes": [vars(c) for c in self.changes]}
        return {"signature": self.signature, "rows": rows, "sentences": self.sentences(), **listed}

    def errors_tsv(self) -> str:
        """Every wrong mention: its entity, what was said, what was heard in its place, how often."""
        lines = ["\t".join(("set", "system", "count", "type", "entity", "said", "heard"))]
        lines += ["\t".join((e.set, e.system, str(e.count), e.type, e.entity, e.said, e.heard)) for e in self.errors]
        return "\n".join(lines) + "\n"

    def table(self) -> str:
        """Text table in percent: ± half of the 95 % interval, `*` where it differs from the baseline; what it says."""
        lines = self._cells(pad=True)
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        form = "  ".join(f"{{:{'<' if i < 2 else '>'}{width}}}" for i, width in enumerate(widths))
        text = [form.format(*line) for line in lines]
        return "\n".join(line.rstrip() for line in [*text, *self.sentences(), self.signature])

    def wers(self) -> str:
        """WER alone: a line a set, a column a system; intervals and stars as in `table`."""
        systems = list(dict.fromkeys(row.system for row in self.rows))
        lines = {row.set: [row.set, str(row.counts["utterances"])] for row in self.rows}
        for row in self.rows:
            lines[row.set].append(_figure(row.wer, row.wer_ci, row.p_wer))
        rows = [["set", "utterances", *systems], *lines.values()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        form = "  ".join(f"{{:{'>' if i else '<'}{width}}}" for i, width in enumerate(widths))
        return "\n".join(form.format(*row).rstrip() for row in rows)

    def markdown(self) -> str:
        """The table for papers and model cards."""
        head, *lines = self._cells(pad=False)
        rule = ["---", "---", *["---:"] * (len(head) - 2)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))
        told = "\n".join(f"- {sentence}" for sentence in self.sentences())
        return f"{table}\n\n{told}\n\n`{self.signature}`\n"

    def sentences(self) -> list[str]:
        """What the comparison with each set's first system says, a sentence a figure."""
        told = []
        bases: dict[str, Row] = {}
        for row in self.rows:
            if bases.setdefault(row.set, row) is row:
                continue
            for name in ("wer", "eer"):
                base, now, p = getattr(bases[row.set], name), getattr(row, name), getattr(row, f"p_{name}")
                if None not in (base, now, p):
                    told.append(f"{row.set}, {row.system}: {name.upper()} {_compared(base, now, p)}")
        if any("*" in sentence for sentence in told):
            told.append("* more than chance in the choice of utterances explains: paired bootstrap, p < 0.05")
        return told

    def _cells(self, pad: bool) -> list[list[str]]:
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
            cells = [row.set, row.system, *figures][: len(head)]
            lines.append(cells if pad else [cell.strip() for cell in cells])
        return lines


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"


def _figure(value: float | None, ci: Interval | None, p: float | None) -> str:
    if value is None or ci is None:
        return "n/a" + " " * 8
    star = "*" if p is not None and p < SIGNIFICANT else " "
    return f"{100 * value:.1f} ± {50 * (ci[1] - ci[0]):3.1f} {star}"


def _compared(base: float, now: float, p: float) -> str:
    """
    >>> _compared(0.20, 0.15, 0.001), _compared(0.20, 0.21, 0.4)
    ('20.0 -> 15.0, 25 % lower * (p = 0.001)', '20.0 -> 21.0, 5 % higher, which may be chance (p = 0.400)')
    """
    figures = f"{100 * base:.1f} -> {100 * now:.1f}"
    if now == base:
        return f"{figures}, the same"
    relative = f"{abs(now - base) / base:.0%}".replace("%", " %") + " " if base else ""
    way = f"{relative}{'lower' if now < base else 'higher'}"
    shown = f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"
    return f"{figures}, {way} * ({shown})" if p < SIGNIFICANT else f"{figures}, {way}, which may be chance ({shown})"


def score(
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

    `hyps` is set -> system -> id -> text. Entities come from the utterances, or, where those hold None, from
    the lexicon; with neither, and where no mention occurs, EER is None. `seen` are normalised written forms
    of the entities that the domain text holds (`lexicon.entities_in`); None: no split. `convention` is one of
    CONVENTIONS. `lenient` scores the utterances that the set and all its systems have in common. Raises DataError
    for an unknown normaliser or convention, an empty set, and, unless lenient, hypotheses whose ids are not those
    of the set.
    """
    for name, value, known in (("normaliser", normaliser, NORMALISERS), ("convention", convention, CONVENTIONS)):
        if value not in known:
            raise DataError(f"score: unknown {name} {value!r}; choose one of {', '.join(known)}")
    if problems := list(_mismatches(sets, hyps, lenient)):
        raise DataError(*problems)
    normalise = NORMALISERS[normaliser]
    index = phrase_index(lexicon, normalise) if lexicon else None
    rows: list[Row] = []
    errors: list[Confusion] = []
    changes: list[Change] = []
    sizes, given = [], []
    for name, systems in hyps.items():
        # Sorted, so that the order of a manifest changes no interval.
        utterances = sorted(_common(sets[name], systems.values()), key=lambda u: u.id)
        tallies = {system: _Tally(index, seen, len(utterances), convention) for system in systems}
        unplaced = _count(utterances, systems, tallies, index, normalise)
        annotated = index is not None or any(u.entities is not None for u in utterances)
        rows += _rows(name, tallies, annotated, unplaced, resamples, seed)
        for system, tally in tallies.items():
            errors += [Confusion(name, system, *key, n) for key, n in tally.confused.most_common()]
            gone = Counter(key for key, n in tally.changed.items() if n)
            named = sorted({key[:2] for key in gone})
            for kind, entity in named:
                gained, lost = (tally.changed[kind, entity, way] for way in ("gained", "lost"))
                changes.append(Change(name, system, kind, entity, gained, lost))
        sizes.append(len(utterances))
        given.append(len(sets[name]))
    signed = signature(normaliser, lexicon, sizes, resamples, seed, convention, given if lenient else None)
    return Scores(signed, tuple(rows), resamples, tuple(errors), tuple(changes))


def _common(utterances: Sequence[Utterance], systems: Collection[Mapping[str, str]]) -> list[Utterance]:
    return [u for u in utterances if all(u.id in texts for texts in systems)]


def _mismatches(sets: Mapping, hyps: Mapping, lenient: bool) -> Iterator[str]:
    for name, systems in hyps.items():
        if not sets.get(name):
            yield f"score: set {name!r} has hypotheses but no utterances; give its manifest"
            continue
        ids = {utterance.id for utterance in sets[name]}
        if lenient:
            if not _common(sets[name], systems.values()):
                yield f"score: {name}: no utterance has a hypothesis of every system; are these files of one set?"
            continue
        for system, texts in systems.items():
            for problem, found in (("missing", ids - texts.keys()), ("unknown", texts.keys() - ids)):
                if found:
                    more = f" and {len(found) - 1:,} more" if len(found) > 1 else ""
                    yield (
                        f"score: {name}, {system}: hypothesis of {min(found)!r}{more} {problem};"
                        " transcribe the same manifest again, or score what they have in common (--lenient)"
                    )


_COUNTED = (
    *("words", "substitutions", "deletions", "insertions", "chars", "char_errors"),
    *("mentions", "wrong", "mentions_seen", "wrong_seen", "biased_words", "biased_errors", "false_alarms"),
)


@dataclass
class _Tally:
    """Totals of one system, and per utterance what the bootstrap needs: errors, words, wrong, mentions."""

    index: PhraseIndex | None
    seen: frozenset[str] | None
    utterances: int
    convention: str
    total: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTED, 0))
    by_type: dict[str, dict[str, int]] = field(default_factory=dict)
    confused: Counter = field(default_factory=Counter)  # type, entity, said, heard
    changed: Counter = field(default_factory=Counter)  # type, entity, "gained" or "lost"

    def __post_init__(self) -> None:
        self.stats = np.zeros((self.utterances, 4), dtype=np.int64)

    def add(
        self, place: int, ref: tuple[str, ...], hyp: tuple[str, ...], mentions: Sequence[Mention]
    ) -> tuple[Judged, ...]:
        ops = (align_is21 if self.convention == "is21" else align)(ref, hyp)
        counts, total = count(ref, hyp, ops), self.total
        entities = entity_errors(ref, hyp, ops, mentions, self.index)
        biased = entities.biased_words, entities.biased_errors
        if self.convention == "is21":
            biased = rare_word_errors(ref, hyp, ops, mentions)
        for key, value in vars(counts).items():
            total[key] += value
        total["biased_words"] += biased[0]
        total["biased_errors"] += biased[1]
        total["false_alarms"] += entities.false_alarms or 0
        wrong = 0
        for judged in entities.judged:
            mention = judged.mention
            own = ref[mention.start : mention.end]
            # The domain text may write what the speaker says in one of its other forms.
            forms = (self.index.forms.get(own) if self.index else None) or (own,)
            known = self.seen is not None and any(" ".join(form) in self.seen for form in forms)
            of_type = self.by_type.setdefault(mention.type, {"mentions": 0, "wrong": 0})
            for counter in (total, of_type):
                counter["mentions"] += 1
                counter["wrong"] += judged.wrong
            total["mentions_seen"] += known
            total["wrong_seen"] += known and judged.wrong
            wrong += judged.wrong
            if judged.wrong:
                heard = " ".join(hyp[judged.start : judged.end])
                self.confused[mention.type, mention.written, " ".join(own), heard] += 1
        errors = counts.substitutions + counts.deletions + counts.insertions
        self.stats[place] = errors, counts.words, wrong, len(entities.judged)
        return entities.judged

    def compare(self, base: Sequence[Judged], own: Sequence[Judged]) -> None:
        for before, after in zip(base, own, strict=True):
            if before.wrong != after.wrong:
                way = "gained" if before.wrong else "lost"
                self.changed[after.mention.type, after.mention.written, way] += 1


def _count(
    utterances: Sequence[Utterance],
    systems: Mapping[str, Mapping[str, str]],
    tallies: Mapping[str, _Tally],
    index: PhraseIndex | None,
    normalise: Callable[[str], str],
) -> int:
    """Score each utterance into the tally of each system; how many annotated entities have no place in their text."""
    unplaced = 0
    for place, utterance in enumerate(utterances):
        ref = tuple(normalise(utterance.text).split())
        if utterance.entities is not None:
            mentions, lost = place_entities(ref, utterance.entities, normalise)
            unplaced += lost
        else:
            mentions = find_mentions(ref, index) if index else []
        base = None
        for system, tally in tallies.items():
            own = tally.add(place, ref, tuple(normalise(systems[system][utterance.id]).split()), mentions)
            if base is None:
                base = own
            else:
                tally.compare(base, own)
    return unplaced


def _rows(
    name: str, tallies: Mapping[str, _Tally], annotated: bool, unplaced: int, resamples: int, seed: int
) -> list[Row]:
    rows: list[Row] = []
    for system, tally in tallies.items():
        # Beside the baseline alone: what else is in the table changes neither interval nor p.
        stats = np.hstack([tallies[rows[0].system].stats, tally.stats]) if rows else tally.stats
        sums = resample(stats, resamples, seed).T
        base, now = sums[:4], sums[-4:]
        n, index = tally.total, tally.index
        errors = n["substitutions"] + n["deletions"] + n["insertions"]
        wer, eer = ratio(errors, n["words"]), ratio(n["wrong"], n["mentions"])
        p_wer = p_eer = None
        if rows and wer is not None:
            p_wer = p_value((base[0], base[1]), (now[0], now[1]), wer - rows[0].wer)
        if rows and eer is not None:
            p_eer = p_value((base[2], base[3]), (now[2], now[3]), eer - rows[0].eer)
        unbiased = errors - n["biased_errors"], n["words"] - n["biased_words"]
        unseen = n["wrong"] - n["wrong_seen"], n["mentions"] - n["mentions_seen"]
        right, alarms = n["mentions"] - n["wrong"], n["false_alarms"]
        by_type = dict(sorted(tally.by_type.items()))
        totals = {"utterances": tally.utterances, **n, "by_type": by_type, "unplaced_entities": unplaced}
        rows.append(
            Row(
                set=name,
                system=system,
                wer=wer,
                wer_ci=interval(now[0], now[1]),
                cer=ratio(n["char_errors"], n["chars"]),
                eer=eer,
                eer_ci=interval(now[2], now[3]),
                eer_seen=None if tally.seen is None else ratio(n["wrong_seen"], n["mentions_seen"]),
                eer_unseen=None if tally.seen is None else ratio(*unseen),
                u_wer=ratio(*unbiased) if annotated else None,
                b_wer=ratio(n["biased_errors"], n["biased_words"]),
                precision=ratio(right, right + alarms) if index else None,
                recall=ratio(right, n["mentions"]),
                # 2 PR / (P + R), written in counts, so that it is 0 and not undefined where nothing is right.
                f1=ratio(2 * right, right + alarms + n["mentions"]) if index and n["mentions"] else None,
                false_alarms_per_1k=ratio(1000 * alarms, n["words"]) if index else None,
                by_type={kind: c["wrong"] / c["mentions"] for kind, c in by_type.items()},
                counts=totals,
                p_wer=p_wer,
                p_eer=p_eer,
            )
        )
    return rows
