"""The results of scoring: rows of figures, entity confusions and changes; as data, text table, Markdown and TSV."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from adapt.score.bootstrap import ENOUGH, SIGNIFICANT

Interval = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """Figures of one system on one set, as fractions; None if a figure cannot be computed ("n/a" in tables).

    wer_ci, eer_ci: None also if fewer than ENOUGH utterances were scored (for eer_ci: utterances with mentions).

    precision, f1, false_alarms_per_1k: need a lexicon; a false alarm is an entity of the lexicon that the hypothesis
    contains and the reference does not. p_wer, p_eer: p-values of the comparison with the set's first system; None for
    that system itself. counts: the numerators and denominators (substitutions, words, mentions, ...) and the mentions
    by type.
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
    """A wrong mention: its entity, the reference words (`said`), the aligned hypothesis words (`heard`), a count."""

    set: str
    system: str
    type: str
    entity: str
    said: str
    heard: str
    count: int


@dataclass(frozen=True)
class Change:
    """How often a system recognises an entity that the set's first system does not (`gained`), and the reverse."""

    set: str
    system: str
    type: str
    entity: str
    gained: int
    lost: int


@dataclass(frozen=True)
class Scores:
    """The results of several systems on several sets.

    signature: how the figures were computed (`scoring.signature`). rows: set by set, the baseline first. resamples: of
    the bootstrap. errors: the most frequent first. notes: what a reader should know, a sentence each.
    """

    signature: str
    rows: tuple[Row, ...]
    resamples: int
    errors: tuple[Confusion, ...] = ()
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict:
        """Plain data for `json.dumps`: `{"signature", "rows": [{"set", …}], "sentences", "errors", "changes"}`."""
        rows = [
            {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(row).items()}
            for row in self.rows
        ]
        entities = {"errors": [vars(e) for e in self.errors], "changes": [vars(c) for c in self.changes]}
        return {"signature": self.signature, "rows": rows, "sentences": self.sentences(), **entities}

    def errors_tsv(self) -> str:
        """Every wrong mention as TSV: a count, its entity, the reference words and the aligned hypothesis words."""
        lines = ["\t".join(("set", "system", "count", "type", "entity", "said", "heard"))]
        lines += ["\t".join((e.set, e.system, str(e.count), e.type, e.entity, e.said, e.heard)) for e in self.errors]
        return "\n".join(lines) + "\n"

    def table(self) -> str:
        """Text table in percent: ± half of the 95 % interval, `*` for a significant difference; then `sentences`."""
        return "\n".join([*_columns(self._cells(pad=True), left=2), *self.sentences(), self.signature])

    def wers(self) -> str:
        """Text table of WER alone: one line per set, one column per system; intervals and stars as in `table`."""
        systems = list(dict.fromkeys(row.system for row in self.rows))
        lines = {row.set: [row.set, str(row.counts["utterances"])] for row in self.rows}
        for row in self.rows:
            lines[row.set].append(_figure(row.wer, row.wer_ci, row.p_wer))
        return "\n".join(_columns([["set", "utterances", *systems], *lines.values()], left=1))

    def markdown(self) -> str:
        """The table in Markdown, for papers and model cards."""
        head, *lines = self._cells(pad=False)
        rule = ["---", "---", *["---:"] * (len(head) - 2)]
        cells = [[cell.replace("|", "\\|") for cell in line] for line in (head, rule, *lines)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in cells)
        sentences = "\n".join(f"- {sentence}" for sentence in self.sentences())
        return f"{table}\n\n{sentences}\n\n`{self.signature}`\n"

    def sentences(self) -> list[str]:
        """A sentence for WER and one for EER that compare each system with its set's first system; then the notes."""
        sentences = []
        baselines: dict[str, Row] = {}
        for row in self.rows:
            if baselines.setdefault(row.set, row) is row:
                continue
            for name in ("wer", "eer"):
                base, value, p = getattr(baselines[row.set], name), getattr(row, name), getattr(row, f"p_{name}")
                if None not in (base, value):
                    sentences.append(f"{row.set}, {row.system}: {name.upper()} {_compared(base, value, p)}")
        if any("*" in sentence for sentence in sentences):
            sentences.append(f"* significant: p < {SIGNIFICANT} in a paired bootstrap over utterances")
        if few := [name for name in ("wer", "eer") if any(_lacks_interval(row, name) for row in self.rows)]:
            of_eer = " with mentions" if few == ["eer"] else ""
            names = " and ".join(name.upper() for name in few)
            sentences.append(
                f"{names} without ±: fewer than {ENOUGH} utterances{of_eer}, too few for intervals and p-values"
            )
        return [*sentences, *self.notes]

    def _cells(self, pad: bool) -> list[list[str]]:
        """The header and the lines of the table. pad: whether figures without a star keep their trailing spaces."""
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


def _lacks_interval(row: Row, name: str) -> bool:
    """Whether a row has the figure `name`, but too few utterances for its interval."""
    return getattr(row, name) is not None and getattr(row, f"{name}_ci") is None


def _figure(value: float | None, ci: Interval | None, p: float | None) -> str:
    """A figure in percent, half of its interval, and a star if the difference from the baseline is significant."""
    if value is None or ci is None:
        return _percent(value) + " " * 8
    star = "*" if p is not None and p < SIGNIFICANT else " "
    return f"{100 * value:.1f} ± {50 * (ci[1] - ci[0]):3.1f} {star}"


def _compared(base: float, value: float, p: float | None) -> str:
    """A figure of a system compared with that of the baseline, in words. p: None if there are too few utterances.

    >>> _compared(0.20, 0.15, 0.001), _compared(0.20, 0.21, 0.4)
    ('20.0 -> 15.0, 25 % lower * (p = 0.001)', '20.0 -> 21.0, 5 % higher, not significant (p = 0.400)')
    """
    figures = f"{100 * base:.1f} -> {100 * value:.1f}"
    if value == base:
        return f"{figures}, the same"
    relative = f"{abs(value - base) / base:.0%}".replace("%", " %") + " " if base else ""
    change = f"{relative}{'lower' if value < base else 'higher'}"
    if p is None:
        return f"{figures}, {change}, too few utterances to compare"
    p_text = f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"
    if p < SIGNIFICANT:
        return f"{figures}, {change} * ({p_text})"
    return f"{figures}, {change}, not significant ({p_text})"


def _columns(lines: list[list[str]], left: int) -> list[str]:
    """Lines of a text table; the first `left` columns are aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    form = "  ".join(f"{{:{'<' if i < left else '>'}{width}}}" for i, width in enumerate(widths))
    return [form.format(*line).rstrip() for line in lines]
