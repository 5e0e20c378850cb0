"""Commands over a recipe: check, run, and each stage on its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from adapt.cli.options import (
    base_argument,
    base_option,
    device_option,
    domain_recipe,
    dtype_option,
    json_option,
    language_option,
    next_command,
    opened_run,
    out_option,
    recipe_argument,
    refuse_shard,
    run_options,
    set_option,
)


@click.command()
@click.argument("recipe", metavar="[RECIPE]", required=False)
@set_option
@click.option("--base", metavar="NAME", help="Load this base, find its slot, time it, and transcribe --audio.")
@click.option("--audio", type=click.Path(path_type=Path), help="A recording to transcribe with --base.")
@dtype_option
@language_option
@device_option
@json_option
def check(
    recipe: str | None,
    overrides: tuple[str, ...],
    base: str | None,
    audio: Path | None,
    dtype: str,
    language: str,
    device: str,
    as_json: bool,
) -> None:
    """Check a recipe or a base before a run.

    For a recipe, it prints counts, duplicates, sentences that leak from the test sets, and the coverage of text and
    lexicon. For a --base, it prints whether it loads, where its slot is, how long stage 2 takes, and the transcript of
    --audio.
    """
    from adapt import check as checks
    from adapt.recipe.domain import Recipe
    from adapt.recipe.load import keys

    if not recipe and not base:
        raise click.UsageError("nothing to check; give a RECIPE, or --base NAME, or both")
    overrides, findings = (*overrides, *([f"base={base_argument(base)}"] if base else [])), []
    if recipe:
        found = checks.check(domain_recipe(recipe, overrides))
        findings = [checks.Finding("ok", "recipe.yaml", f"{len(keys(Recipe))} keys"), *found]
    if base:
        findings += checks.check_base(base, audio, device, dtype, language)
    if as_json:
        click.echo(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(f"{finding.verdict:<5} {finding.about:<12} {finding.text}")
        click.echo(next_command("run", recipe or "RECIPE", overrides))
    if any(finding.verdict == "fail" for finding in findings):
        sys.exit(1)


@click.command()
@run_options
@json_option
def run(recipe: str, overrides: tuple[str, ...], out: Path | None, device: str, as_json: bool) -> None:
    """Run every stage of a recipe and print the score table.

    A stage whose settings and files have not changed is skipped. After a changed key the run continues from the first
    stage that the key affects, and says which key. After Ctrl-C or a kill the same command continues to the same
    result.

    \b
    text        normalise the domain text; drop duplicates and sentences of the test sets
    terms       find names in it, if they go into the prompt and there is no lexicon
    speech      have sentences spoken, if the pseudo audio is speech
    project     learn prompt or projector from paired audio, if the recipe says so (adapt project --help)
    prompt      learn the soft prompt, if the pseudo audio needs it (adapt prompt --help)
    generator   train the network that makes audio embeddings, if the pseudo audio is generate
    decoder     tune the decoder on the text (adapt decoder --help)
    lm          estimate n-gram LMs, if the recipe fuses them (adapt lm --help)
    transcribe  transcribe the test sets with each system
    score       WER, EER, report.html (adapt score --help)

    `adapt ls keys` prints every key of recipe.yaml with its default, unit and range.
    """
    from adapt import pipeline
    from adapt.stages import plan
    from adapt.stages.systems import transcribe_command

    with opened_run(recipe, overrides, out, device) as opened:
        if opened.path(plan.TUNED_WEIGHTS).exists():
            weights = f"weights of {opened.path(plan.TUNED_WEIGHTS)} replace those of the recipe"
            click.echo(f"{'fusion':<10} {weights}; delete the file to use those of the recipe", err=True)
        table = pipeline.run_all(opened)
        if as_json:
            click.echo(opened.path("scores/metrics.json").read_text(encoding="utf-8") if table else "{}\n", nl=False)
            return
        if table:
            click.echo(f"{table}\n\nReport: {opened.path('report.html')}")
        else:
            click.echo("Nothing is scored: the recipe names neither data.test nor data.source_test.")
        command, without = transcribe_command(opened)
        missing = f", without {' and '.join(without)}" if without else ""
        click.echo(f"Use it{missing}: {command}")


@click.command()
@run_options
def prompt(recipe: str, overrides: tuple[str, ...], out: Path | None, device: str) -> None:
    """Stage 1: learn the soft prompt.

    Everything else is frozen, and the loss is that of the next token of the domain text. The soft prompt takes the
    place of audio embeddings in the slot while the decoder is tuned (stage 2); it is not used at inference. With
    `prompt.length: auto` soft prompts of several lengths are learned, and the best one is kept. The keys are in the
    section `prompt` of recipe.yaml.
    """
    from adapt import pipeline
    from adapt.stages import plan

    with opened_run(recipe, overrides, out, device, trains=True) as opened:
        pipeline.text(opened)
        pipeline.soft_prompt(opened)
        click.echo(opened.path(plan.SOFT_PROMPT))


@click.command()
@run_options
def decoder(recipe: str, overrides: tuple[str, ...], out: Path | None, device: str) -> None:
    """Stage 2: tune the decoder, with pseudo audio.

    A LoRA of the decoder learns the domain text, with pseudo audio in the slot. The stages before it run first if they
    are not done. `decoder.pseudo_audio` chooses the content of the slot:

    \b
    simulate              audio embeddings of data.source_replay, selected by the letters of
                          each sentence and concatenated (needs a base with a CTC head), or,
                          for a base that transcribes, words as it mishears them
    soft-prompt           the learned soft prompt, the same for every sentence (2412.06967)
    soft-prompt+simulate  the soft prompt, followed by the simulated slot
    mixed                 for each sentence at random one of these two
    denoise               the tokens of the sentence, with noise in its letters (2601.20900)
    upsample-mask         its tokens, repeated to the length of audio and partly masked
                          (2204.03409, 2210.07353)
    generate              audio embeddings of the sentence by a small network, which is first
                          trained on data.source_replay (needs no CTC head)
    speech                audio of the sentence, by the command decoder.speak
    empty                 nothing; the prompt around the slot stays
    none                  no prompt at all
    auto                  simulate if the base can, else soft-prompt

    Three measures limit forgetting: a share of each batch is audio of the source domain (data.source_replay,
    decoder.replay), the decoder is kept close to the base on that audio (decoder.anchor), and checkpoints whose loss on
    data.source_dev rises by more than decoder.guard_tolerance are rejected.
    """
    from adapt import pipeline
    from adapt.stages import plan

    with opened_run(recipe, overrides, out, device, trains=True) as opened:
        pipeline.adapt(opened)
        click.echo(opened.path(plan.ADAPTER))


@click.command()
@run_options
def project(recipe: str, overrides: tuple[str, ...], out: Path | None, device: str) -> None:
    """Learn the prompt, or parts of the base, from paired audio.

    The stage learns the prompt around the slot from data.paired, and trains the parts of the base that are not frozen.
    The stages `prompt` and `decoder` then start from the result. `project.method` is `tokens` (free vectors), `mlp` (a
    projector of the embeddings of the prompt's text, three layers, 2601.20898) or `residual` (a projector that starts
    as the identity). `project.template` is the wording:

    \b
    <speech>     the slot; a template without it has the slot first
    <p:4>        four learnable tokens
    <p:text>     as many learnable tokens as the text has
    \\n           a new line
    \\<  \\>  \\1   the character itself, so that <p:\\<|im_start|\\>user> is text
    <chat>       at the very beginning: the rest is a user's turn in the chat template of the model

    YAML files of llm-asr-prompt are templates, too. `project.encoder`, `project.projector` and `project.llm` train
    parts of the base on the same audio; the result is a model in RUN/project/model, in the layout of the base.
    """
    from adapt import pipeline
    from adapt.stages import plan

    with opened_run(recipe, overrides, out, device) as opened:
        if not plan.learns_from_pairs(opened.recipe):
            way_out = "set project.method to tokens, mlp or residual, or project.projector to trained"
            raise click.UsageError(f"nothing to learn; {way_out}")
        pipeline.project(opened)
        click.echo(opened.path(plan.projected(opened.recipe)))


@click.command()
@recipe_argument
@click.option(
    "--from",
    "arpa",
    type=click.Path(path_type=Path),
    help="An ARPA file to use instead of an estimate: of token ids (decimal, or as NeMo writes them), or of words.",
)
@set_option
@base_option
@out_option
@json_option
def lm(recipe: str, arpa: Path | None, overrides: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Estimate n-gram LMs of the domain text.

    One is over the decoder's tokens, one over words (for ctc), and one is of the source domain. They are estimated by
    interpolated modified Kneser-Ney, as by KenLM's lmplz. Prints the perplexity on development text by order.
    """
    from adapt import pipeline
    from adapt.lm.arpa import kind
    from adapt.stages import plan
    from adapt.stages.lm import perplexities

    if arpa:
        key = "words" if kind(arpa) == "words" else "tokens"
        overrides = (*overrides, f"lm.{key}={arpa.absolute()}")
    with opened_run(recipe, overrides, out) as opened:
        pipeline.text(opened)
        pipeline.lm(opened)
        if arpa:
            way_out = f"write `lm: {{{key}: {arpa.absolute()}}}` into the recipe to use it always"
            click.echo(f"{arpa}: used only this time, the next run estimates an LM; {way_out}", err=True)
        orders = perplexities(opened)
        if as_json:
            click.echo(json.dumps(orders, indent=2))
            return
        click.echo("order    n-grams  dev perplexity  unseen tokens")
        for row in orders:
            click.echo(f"{row['order']:>5} {row['ngrams']:>10,} {row['perplexity']:>15.1f} {row['unseen']:>14,}")
        click.echo(opened.path(plan.TOKENS_LM))


@click.command()
@run_options
@json_option
def tune(recipe: str, overrides: tuple[str, ...], out: Path | None, device: str, as_json: bool) -> None:
    """Find the weights of fusion.

    The weights of the base, the adapted model and what the encoder hears (CTC or a first pass) are tuned on the
    development set (data.dev), with names in the prompt if transcribe.names puts them there. `adapt run` then uses
    these weights in place of the recipe's section `fusion`:

    \b
    lm      n-gram LM of the domain text over the decoder's tokens (shallow fusion)
    ilm     internal LM, subtracted: the decoder with an empty slot, or with the soft
            prompt in it (fusion.ilm_slot)
    boost   lexicon boosting: a bonus for phrases of the lexicon, withdrawn if the phrase
            is not completed, smaller for names below 16 letters
    reward  a constant for each token

    The LM of the source domain is not tuned, and then not used. Weights that at least double the false alarms are
    refused, and so are those that harm general speech (data.source_dev). A line of a manifest can have phrases for its
    utterance: "phrases": ["jolene"].
    """
    from adapt import pipeline
    from adapt.stages import plan
    from adapt.tune import stage as tuning
    from adapt.tune.table import table

    with opened_run(recipe, overrides, out, device) as opened:
        tuning.check_tuning(opened)
        pipeline.adapt(opened)
        pipeline.lm(opened)
        tuning.tune(opened)
        if as_json:
            click.echo(opened.path(plan.TUNED_WEIGHTS).read_text(encoding="utf-8"), nl=False)
            return
        click.echo(table(opened))
        click.echo(next_command("run", recipe, overrides, out))


@click.command()
@run_options
@click.option(
    "--prompts", "file", type=click.Path(path_type=Path), help="Templates, one a line.  [default: ten of the package]"
)
@click.option("--method", "methods", multiple=True, help="plain, tokens-N, mlp, residual.  [default: all, N 8]")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Trainings of each prompt.")
@json_option
def prompts(
    recipe: str,
    file: Path | None,
    methods: tuple[str, ...],
    seeds: int,
    overrides: tuple[str, ...],
    out: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure how much the wording of a prompt matters.

    Each template is scored on data.dev, both as it is and learned on data.paired. Prints WER and EER over prompts and
    seeds, and the prompt with the lowest WER, and draws a box plot. `adapt project --help` explains templates.
    """
    from adapt.prompts import METHODS, compare_prompts

    with opened_run(recipe, overrides, out, device) as opened:
        comparison = compare_prompts(opened, file, methods or METHODS, seeds)
        click.echo(json.dumps(comparison.to_json(), indent=2) if as_json else comparison.table())


@click.command()
@run_options
@json_option
def inspect(recipe: str, overrides: tuple[str, ...], out: Path | None, device: str, as_json: bool) -> None:
    """Show what the vectors of the soft prompt are.

    For each vector it prints its norm, the nearest tokens, and the nearest audio embedding of data.source_replay (or
    data.dev) with the word that is spoken about there; then norms and cosines of soft prompt, audio and tokens. Writes
    prompt/inspect.json and a picture, prompt/inspect.png. The soft prompt is learned first if it is not there.
    """
    from adapt import pipeline
    from adapt.inspect import inspect as inspection_of

    with opened_run(recipe, overrides, out, device) as opened:
        pipeline.prepare(opened)
        pipeline.soft_prompt(opened)
        found = inspection_of(opened)
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False) if as_json else found.table())


@click.command()
@recipe_argument
@set_option
@click.option("--on", "name", default="target", show_default=True, metavar="SET", help="target, dev or source.")
@out_option
@device_option
@json_option
def robustness(
    recipe: str, overrides: tuple[str, ...], name: str, out: Path | None, device: str, as_json: bool
) -> None:
    """Measure WER in noise, by voice, rate and length.

    The conditions are white noise and babble from 20 to 0 dB, and silence around the speech. The base is scored and, if
    the run has one, the adapted model.
    """
    from adapt.robustness import robustness as measure

    with opened_run(recipe, overrides, out, device) as opened:
        scores = measure(opened, name)
        click.echo(json.dumps(scores.to_json(), indent=2, ensure_ascii=False) if as_json else scores.wers())


@click.command()
@run_options
@click.option(
    "--method",
    "methods",
    multiple=True,
    help="KIND or KIND,KEY=VALUE,...  [default: every kind that base and recipe allow]",
)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Trainings of each method.")
@json_option
def compare(
    recipe: str,
    methods: tuple[str, ...],
    seeds: int,
    overrides: tuple[str, ...],
    out: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Compare kinds of pseudo audio on the test sets of a recipe.

    Each method is a kind of `decoder.pseudo_audio`, with settings of the section `decoder` if it names any, as in
    `--method simulate,misheard=0.4`. It is trained with several seeds. The table has the mean and the standard
    deviation of WER, EER, EER of entities seen and unseen in the text, false alarms for 1,000 words and source WER, of
    the model alone and with all that the recipe adds (names, sentences, fusion), and the seconds and parameters of the
    training. A picture shows target against source WER.

    The folder (default: runs/NAME-compare) holds a run for each training and one for the base. After Ctrl-C or a kill
    the same command continues.
    """
    from adapt.cli.options import report, run_name
    from adapt.compare import compare as comparison_of
    from adapt.compare import read_methods

    refuse_shard(device)
    recipes = read_methods(methods, lambda more: domain_recipe(recipe, (*overrides, *more)))
    folder = out or Path("runs") / f"{run_name(recipes[0].recipe, overrides)}-compare"
    comparison = comparison_of(recipes, seeds, folder, device, report)
    click.echo(json.dumps(comparison.to_json(), indent=2) if as_json else comparison.table())
