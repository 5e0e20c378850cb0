"""The command `adapt transcribe`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from adapt.cli.options import device_option, dtype_option, language_option, normaliser_option, weight
from adapt.errors import DataError


@click.command()
@click.argument("audio", nargs=-1, required=True, metavar="AUDIO...")
@click.option("--base", default="tiny", show_default=True, help="Built-in base model, or the folder of one.")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="[NAME=]PATH",
    help="Adapter to put on it, e.g. runs/music/adapter. With a name it is for the utterances of that domain.",
)
@click.option("--prompt", type=click.Path(path_type=Path), help="Prompt to put around its slot, of `adapt project`.")
@click.option(
    "--decoder",
    default="llm",
    show_default=True,
    type=click.Choice(["llm", "ctc"]),
    help="ctc: what the encoder alone hears, with a confidence in --out.",
)
@click.option(
    "--ctc-weight",
    type=float,
    callback=weight,
    help="Of the encoder's CTC beside the decoder.  [default: 0.1 where there is one]",
)
@click.option("--lm", type=click.Path(path_type=Path), help="ARPA to fuse: of the decoder's tokens; of words for ctc.")
@click.option("--lm-weight", default=0.1, show_default=True, callback=weight, help="Its weight.")
@click.option("--lexicon", type=click.Path(path_type=Path), help="Lexicon to boost.")
@click.option("--boost", type=float, callback=weight, help="Weight of the lexicon's bonus.  [default: 0.6; ctc: 5]")
@click.option("--ilm", default=0.0, show_default=True, callback=weight, help="Weight of the internal LM, taken off.")
@click.option("--rescore", metavar="MODEL", help="Causal LM, a folder or name, that puts the n-best list in order.")
@click.option("--rescore-weight", default=0.1, show_default=True, callback=weight, help="Its weight.")
@click.option("--nbest", default=1, show_default=True, type=click.IntRange(1), help="Hypotheses in a line of --out.")
@click.option("--num-beams", default=4, show_default=True, type=click.IntRange(1, 1000), help="Beams; 1 is greedy.")
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(1), help="Utterances at a time.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write JSON lines here, resumably.")
@normaliser_option
@dtype_option
@click.option("--quantise", type=click.Choice(["8-bit", "4-bit"]), help="The base's linear layers, on CUDA.")
@language_option
@device_option
def transcribe(
    audio: tuple[str, ...],
    base: str,
    adapters: tuple[str, ...],
    prompt: Path | None,
    decoder: str,
    ctc_weight: float | None,
    lm: Path | None,
    lm_weight: float,
    lexicon: Path | None,
    boost: float | None,
    ilm: float,
    rescore: str | None,
    rescore_weight: float,
    nbest: int,
    num_beams: int,
    batch_size: int,
    out: Path | None,
    normaliser: str,
    dtype: str,
    quantise: str | None,
    language: str,
    device: str,
) -> None:
    """Transcribe audio files, or the utterances of JSONL manifests.

    Without --out the transcripts are printed, each behind its file's name or its id. What a manifest's line holds as
    `phrases` is boosted for that utterance, beside --lexicon; what it holds as `domain` names the adapter that hears
    it, where there are several, and without one the base does.
    """
    import tempfile

    from adapt.text.corpus import Utterance, nfc, read_hypotheses, read_manifest
    from adapt.text.lexicon import read_lexicon
    from adapt.text.normalise import NORMALISERS

    pairs = [_named(adapter, len(adapters)) for adapter in adapters]
    named = dict(pairs)
    if len(named) < len(pairs):
        raise click.UsageError("--adapter: two of them have one name; give each its own")
    if decoder == "ctc" and adapters:
        raise click.UsageError("--decoder ctc leaves out the decoder that --adapter adapts; give one of the two")
    if decoder == "ctc" and prompt:
        raise click.UsageError("--decoder ctc leaves out the decoder that --prompt speaks to; give one of the two")
    if prompt and adapters:
        raise click.UsageError("--prompt: an adapter brings the prompt along that it was tuned behind; leave one out")
    if decoder == "ctc" and (ilm or rescore or nbest > 1 or ctc_weight is not None):
        raise click.UsageError("--decoder ctc has no LLM to weigh and gives one hypothesis; leave that option out")
    if ilm and len(named) > 1:
        raise click.UsageError("--ilm takes one decoder's internal LM off, and there are several; give one adapter")
    if nbest > num_beams:
        raise click.UsageError(f"--nbest {nbest} of {num_beams} beams; give --num-beams {nbest}")
    utterances: list[Utterance] = []
    for name in audio:
        if name.endswith((".jsonl", ".json")):
            utterances += read_manifest(Path(name))
        else:
            utterances.append(Utterance(nfc(name), "", Path(name)))
    if missing := [u.audio for u in utterances if u.audio is None or not u.audio.exists()]:
        raise DataError(*(f"{path}: no such file; give a wav, flac, ogg or mp3 file" for path in missing))
    times = Counter(u.id for u in utterances)
    if doubled := [i for i, number in times.items() if number > 1]:
        raise DataError(*(f"{i}: {times[i]} of the recordings have this name; give each its own" for i in doubled))

    from adapt.decode.ctc import CtcFusion
    from adapt.decode.fusion import Fusion
    from adapt.decode.rescore import Rescorer
    from adapt.decode.transcribe import transcribe as write
    from adapt.decode.weights import Weights
    from adapt.model import learned_prompt
    from adapt.model.adapter import attach
    from adapt.model.load import load_speech_llm

    llm = load_speech_llm(base, device, dtype=dtype, quantise=int(quantise[0]) if quantise else None, language=language)
    if decoder == "ctc" and not llm.has_ctc:
        raise DataError(f"--decoder ctc: {base} has no encoder with a CTC head; leave it out")
    if ctc_weight and not llm.has_ctc:
        raise DataError(f"--ctc-weight: {base} has no encoder with a CTC head; leave it out")
    if prompt:
        llm = learned_prompt.with_learned(llm, learned_prompt.load_learned_prompt(prompt, llm))
    for name, folder in named.items():
        attach(llm, folder, name)
    fusion = None
    if lm or lexicon or ilm or any(u.phrases for u in utterances):
        boosting = (5.0 if decoder == "ctc" else 0.6) if boost is None else boost
        weights = Weights(lm=lm_weight if lm else 0.0, boost=boosting, ilm=ilm)
        parts = {"lm": lm, "lexicon": read_lexicon(lexicon) if lexicon else None}
        parts |= {"internal": llm.prompt_without_audio()} if ilm else {}
        kind = CtcFusion if decoder == "ctc" else Fusion
        fusion = kind(llm, weights, normalise=NORMALISERS[normaliser], **parts)
    rescorer = Rescorer(rescore, rescore_weight, llm.device) if rescore else None
    with tempfile.TemporaryDirectory() as folder:
        lines = out or Path(folder) / "hyps.jsonl"
        more = {"num_beams": num_beams, "batch_size": batch_size, "nbest": nbest}
        more |= {} if ctc_weight is None else {"ctc_weight": ctc_weight}
        kept = write(llm, utterances, lines, decoder=decoder, fusion=fusion, rescorer=rescorer, **more)
        if kept:
            told = f"{kept} of {len(utterances)} transcripts were there already and stay as they were"
            click.echo(f"{out}: {told}; delete it to hear them anew", err=True)
        if not out:
            texts = read_hypotheses(lines)
            for utterance in utterances:
                click.echo(f"{utterance.id}\t{texts[utterance.id]}")


def _named(adapter: str, count: int) -> tuple[str, Path]:
    name, equals, path = adapter.partition("=")
    if equals and "/" not in name:
        if not name or "." in name:
            raise click.UsageError(f"--adapter {adapter}: {name!r} is no name; write letters and digits before the =")
        return name, Path(path)
    if count > 1:
        raise click.UsageError(f"--adapter {adapter}: one of several has no name; write --adapter NAME={adapter}")
    return "default", Path(adapter)
