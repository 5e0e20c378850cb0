"""The command `adapt terms`."""

from __future__ import annotations

import click

from adapt.cli.options import normaliser_option
from adapt.text.lexicon import as_line
from adapt.text.sentences import COLUMN, sample, sentences
from adapt.text.terms import SENTENCES, find_terms


@click.command()
@click.argument("text")
@normaliser_option
@click.option("--column", default=COLUMN, show_default=True, help="Column of a Parquet, or key of a JSONL file.")
def terms(text: str, normaliser: str, column: str) -> None:
    """Find the terms of a domain in its text, and print them as a lexicon.

    The output can replace a list of entities: `adapt terms text.txt > terms.tsv`, then `adapt transcribe --lexicon
    terms.tsv --names both`, or `data.lexicon: terms.tsv` in a recipe. A recipe without a lexicon, but with
    `transcribe.names: prompt` or `both`, finds them by itself.

    Terms are runs of up to six words that occur at least three times, beside different words on both sides, and in
    places where many other terms occur, too ("play _ on the"): names, and other phrases. What is in more than 1 % of
    the sentences, and occurs more than 100 times, is left out. Those come first in whose places most others occur.
    Delete what you do not need.

    TEXT is a text file with one sentence a line, a .jsonl or .parquet file, or hf://datasets/OWNER/NAME. Of more than
    100,000 sentences, a random sample is used.
    """
    from adapt.text.normalise import NORMALISERS

    lines, total = sample(sentences(text, column), SENTENCES, seed=1)
    found = find_terms(list(map(NORMALISERS[normaliser], lines)))
    for term in found:
        click.echo(as_line(term))
    sampled = f" {len(lines):,} of" if total > len(lines) else ""
    click.echo(f"{len(found):,} terms in{sampled} {total:,} lines", err=True)
