"""The command `adapt score`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from adapt.cli.options import json_option, normaliser_option
from adapt.score.conventions import CONVENTIONS


@click.command()
@click.argument("refs", type=click.Path(path_type=Path))
@click.argument("hyps", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--lexicon", type=click.Path(path_type=Path), help="Lexicon of the entities to score.")
@normaliser_option
@click.option(
    "--convention",
    default="adapt",
    show_default=True,
    type=click.Choice(CONVENTIONS),
    help="How to align and count: adapt (fewest edits), or is21 (as is21_deep_bias).",
)
@click.option("--lenient", is_flag=True, help="Score only the utterances that all files have.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for report.html, scores/ and hyps/.")
@click.option("--resamples", default=1000, show_default=True, type=click.IntRange(1), help="Bootstrap resamples.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Seed of the resamples.")
@json_option
def score(
    refs: Path,
    hyps: tuple[Path, ...],
    lexicon: Path | None,
    normaliser: str,
    convention: str,
    lenient: bool,
    out: Path | None,
    resamples: int,
    seed: int,
    as_json: bool,
) -> None:
    """Score hypotheses against references.

    Files may be JSONL manifests (of this toolkit, SLAM-LLM or NeMo), TSV of id and text, NIST trn, Kaldi text, or the
    biasing TSV of fbai-speech, each also compressed as .gz, or manifests in Parquet. The first HYPS is the baseline of
    every comparison.

    \b
    WER            (substitutions + deletions + insertions) / reference words, at the fewest
                   edits; CER is the same by character
    EER            wrong mentions / mentions. A mention is wrong if a word of it is
                   substituted or deleted, or a word is inserted inside it, unless another
                   form of the entity in the lexicon is recognised there ("adele" for
                   "adele's" also counts)
    seen, unseen   EER of mentions whose entity the domain text has, and of the others
                   (adapt run only)
    B-WER, U-WER   errors on the words inside and outside of mentions
    false alarms   entities of the lexicon that are recognised but were not said, per 1,000
                   words; precision, recall and F1 follow from them
    interval, p    95 % bootstrap interval over utterances; paired bootstrap against the
                   baseline; neither for fewer than 30 utterances

    Mentions are the `entities` of a manifest, else those that the lexicon finds, longest match first; every repetition
    counts. In Chinese, Japanese, Thai and other scripts without spaces, characters take the place of words.

    The last line, the signature, describes how the figures were computed: normaliser, lexicon, counts, resamples, seed,
    version. Figures can be compared if their signatures are the same.
    """
    from adapt.score.scoring import score_systems
    from adapt.text.lexicon import read_lexicon
    from adapt.text.transcripts import read_hypothesis_texts, read_references

    name, *names = (Path(path.name.removesuffix(".gz")).stem for path in (refs, *hyps))
    systems = names if len(set(names)) == len(names) else [str(path) for path in hyps]
    sets = {name: read_references(refs)}
    texts = {system: read_hypothesis_texts(path) for system, path in zip(systems, hyps, strict=True)}
    scores = score_systems(
        sets,
        {name: texts},
        read_lexicon(lexicon) if lexicon else None,
        normaliser=normaliser,
        resamples=resamples,
        seed=seed,
        convention=convention,
        lenient=lenient,
    )
    if out:
        from adapt.score.files import save_hypotheses
        from adapt.score.report import save_scores

        for system, lines in texts.items():
            save_hypotheses(out, name, system, lines)
        save_scores(out, scores, sets)
        click.echo(f"Report: {out / 'report.html'}", err=True)
    click.echo(json.dumps(scores.to_json(), indent=2, ensure_ascii=False) if as_json else scores.table())
