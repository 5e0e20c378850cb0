"""The command `adapt terms`."""

from __future__ import annotations

import click

from adapt.cli.options import normaliser_option
from adapt.text.terms import LEAST_SCORE, find_terms


@click.command()
@click.argument("text")
@normaliser_option
@click.option("--column", default="text", show_default=True, help="Column of a Parquet, or key of a JSONL file.")
@click.option(
    "--least", default=LEAST_SCORE, show_default=True, type=click.FloatRange(0), help="Score of the last term."
)
def terms(text: str, normaliser: str, column: str, least: float) -> None:
    """Find the terms of a domain in its text, and print them as a lexicon.

    It takes the place of a list of entities where there is none: `adapt terms text.txt > terms.tsv`, then
    `data.lexicon: terms.tsv` and `transcribe.names: both` in a recipe, or `adapt transcribe --lexicon terms.tsv --names
    both`. Terms are runs of up to six words that stand beside many different words, where other terms stand too ("play
    _ on the"): names, and other phrases that sentences have in the same places. They need three occurrences. The score
    is the mean logarithm of the number of terms in the contexts of a term. The best come first; delete what you do not
    need.

    TEXT is a text file with one sentence a line, a .jsonl or .parquet file, or hf://datasets/OWNER/NAME. Of more than
    100,000 lines, a random sample is used.
    """
    from adapt.text.normalise import NORMALISERS
    from adapt.text.sentences import sample, sentences

    lines, total = sample(sentences(text, column), 100_000, seed=1)
    found = find_terms(list(map(NORMALISERS[normaliser], lines)), least)
    for term in found:
        click.echo(term.text)
    sampled = f" {len(lines):,} of" if total > len(lines) else ""
    click.echo(f"{len(found):,} terms in{sampled} {total:,} lines", err=True)
