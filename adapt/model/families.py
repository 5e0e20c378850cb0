"""The supported families of speech LLMs: one row of FAMILIES for each model type. Importing it does not import torch.

The processor of a family writes the prompt, and `adapt.model.slot` finds the slot in it. A row holds the differences
between families: the class, the call of the processor, and the treatment of the output. To add a family, write its row,
and a builder of a tiny random model in BUILDERS of `tests/model/families.py`; the conformance tests follow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import BatchFeature, PreTrainedConfig, PreTrainedModel, ProcessorMixin

INSTRUCTION = "Transcribe the speech into text."


# ---------------------------------------------------------------------------------------- calls of processors


@dataclass(frozen=True)
class Request:
    """A request to a processor for the inputs of one recording.

    samples: mono, float32 `[length]`, at the processor's `sampling_rate`. language: ISO 639-1. model_name: the name or
    folder of the model. user_text: the text of the user before and after the audio; only requests by a chat template
    use it. arguments: further ones of the method for transcription, where the processor has one.
    """

    samples: np.ndarray
    language: str
    model_name: str
    user_text: tuple[str, str] = ("", INSTRUCTION)
    arguments: Mapping[str, object] = field(default_factory=dict)


def sampling_rate(processor: ProcessorMixin) -> int:
    """Samples per second that a processor expects."""
    features = getattr(processor, "feature_extractor", None) or getattr(processor, "audio_processor", None)
    return getattr(features, "sampling_rate", 16_000)


def _user_turn(request: Request) -> list[dict]:
    """One turn of the user, with audio and text, as chat templates take it."""
    before, after = ([{"type": "text", "text": text}] if text else [] for text in request.user_text)
    content = [*before, {"type": "audio", "audio": request.samples}, *after]
    return [{"role": "user", "content": content}]


def _processor_arguments(processor: ProcessorMixin) -> dict:
    # Some processors have no default for these; a flat `padding` would apply to their audio as well.
    arguments = {"text_kwargs": {"padding": True}, "audio_kwargs": {"sampling_rate": sampling_rate(processor)}}
    return {"return_tensors": "pt", "processor_kwargs": arguments}


def by_chat_template(processor: ProcessorMixin, request: Request) -> BatchFeature:
    """Apply the processor's chat template to one user turn of audio and instruction."""
    return processor.apply_chat_template(
        [_user_turn(request)],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        **_processor_arguments(processor),
    )


def by_tokenizer_chat_template(processor: ProcessorMixin, request: Request) -> BatchFeature:
    """As `by_chat_template`, for processors whose tokenizer holds the template."""
    text = processor.tokenizer.apply_chat_template(_user_turn(request), tokenize=False, add_generation_prompt=True)
    return processor(text=[text], audio=[request.samples], sampling_rate=sampling_rate(processor), return_tensors="pt")


def by_transcription_request(processor: ProcessorMixin, request: Request) -> BatchFeature:
    """Call the method that some processors have for transcription."""
    return processor.apply_transcription_request(
        audio=[request.samples], **request.arguments, **_processor_arguments(processor)
    )


def by_transcription_request_in_language(processor: ProcessorMixin, request: Request) -> BatchFeature:
    """As `by_transcription_request`, with the language, so that the transcript does not begin with its name."""
    return processor.apply_transcription_request(
        audio=[request.samples], language=request.language, **request.arguments, **_processor_arguments(processor)
    )


def by_mistral_request(processor: ProcessorMixin, request: Request) -> BatchFeature:
    """As `by_transcription_request_in_language`, for Mistral's tokenizer."""
    arguments = {"model_id": request.model_name, "sampling_rate": sampling_rate(processor), "format": ["wav"]}
    return processor.apply_transcription_request(audio=[request.samples], language=request.language, **arguments)


# ---------------------------------------------------------------------------------------------- names in the prompt

# From a processor, a request and names to the request with these names, where the family has its place for them.
NamesField = Callable[["ProcessorMixin", Request, Sequence[str]], Request]


def in_instruction(form: str) -> NamesField:
    """The names follow the instruction. form: `{}` is their list.

    >>> in_instruction("Names: {}.")(None, Request(None, "en", ""), ["Adele", "U2"]).user_text[1]
    'Transcribe the speech into text. Names: Adele, U2.'
    """

    def add(processor: ProcessorMixin, request: Request, names: Sequence[str]) -> Request:
        before, after = request.user_text
        return replace(request, user_text=(before, f"{after} {form.format(', '.join(names))}"))

    return add


def after_default_prompt(processor: ProcessorMixin, request: Request, names: Sequence[str]) -> Request:
    """The names follow the processor's own instruction, which its method for transcription takes as `prompt`."""
    prompt = f"{processor.default_transcription_prompt} {GENERIC.format(', '.join(names))}"
    return replace(request, arguments={"prompt": prompt})


def as_context(processor: ProcessorMixin, request: Request, names: Sequence[str]) -> Request:
    """The names are the context that the method for transcription takes as `prompt`."""
    return replace(request, arguments={"prompt": ", ".join(names)})


def as_keywords(processor: ProcessorMixin, request: Request, names: Sequence[str]) -> Request:
    """The names are the `keywords` of the method for transcription."""
    return replace(request, arguments={"keywords": [list(names)]})


GENERIC = "These names may occur: {}."  # for families that have no place for names
after_instruction = in_instruction(GENERIC)


# ------------------------------------------------------------------------------------------- embeddings of token ids


def token_embeddings(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Token embeddings `[..., hidden]` from the model's input embeddings."""
    return model.get_input_embeddings()(ids)


def gemma3n_embeddings(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Token embeddings `[..., hidden]` of Gemma 3n.

    The tokens that mark images and audio have their own embedding tables, whose ids follow those of the text.
    """
    import torch

    embeddings = token_embeddings(model, ids)
    for table in (model.model.embed_vision, model.model.embed_audio):
        is_of_table = ids >= table.vocab_offset
        last = table.vocab_offset + table.vocab_size - 1
        from_table = table(input_ids=torch.where(is_of_table, ids, last).clamp(max=last))
        embeddings = torch.where(is_of_table[..., None], from_table.to(embeddings.dtype), embeddings)
    return embeddings


# ------------------------------------------------------------------------------ the transcript within generated text


def as_generated(text: str) -> str:
    """The text itself, for models that generate the transcript alone."""
    return text


def unquoted(text: str) -> str:
    """The transcript within a sentence that announces it.

    >>> unquoted("The spoken content of the audio is 'play it'."), unquoted("play it")
    ('play it', 'play it')
    """
    sentence = re.fullmatch(
        r"The (?:spoken content|transcription|content) of the (?:input )?audio is ['\"](.*)['\"]\.?", text
    )
    return sentence[1] if sentence else text


def joined_segments(text: str) -> str:
    """The transcript within a JSON list of segments.

    >>> joined_segments('[{"Start": 0, "End": 1, "Speaker": 0, "Content": "play it"}]'), joined_segments("play it")
    ('play it', 'play it')
    """
    return " ".join(re.findall(r'"Content": ?"((?:[^"\\]|\\.)*)"', text)) or text


def without_times(text: str) -> str:
    """The transcript without its marks of times and speakers.

    >>> without_times("[0.00][S01]play it[3.00]")
    'play it'
    """
    return " ".join(re.sub(r"\[(?:[\d.:]+|S\d+)\]", " ", text).split())


def after_thinking(text: str) -> str:
    """The transcript after the model's thoughts.

    >>> after_thinking("<think>hm</think>play it")
    'play it'
    """
    return text.rpartition("</think>")[2].strip()


# --------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Family:
    """The properties of one model type.

    cls: name of its class in transformers. request: calls its processor for the inputs of one recording.
    forward_arguments: further arguments of a forward pass on audio. embed: embeddings of token ids. merging_module: the
    module of the decoder that puts the audio embeddings into the slot; "" if that happens before the decoder.
    transcript: extracts the transcript from the generated text. names: puts names into a request, by the family's own
    documentation; None: its prompt has no room for them. needs: the package that its processor imports (Gemma
    3n: that its vision tower imports) besides transformers; "" for none. tested: whether the tests run all commands on
    a tiny model of its class with random weights.
    """

    cls: str
    request: Callable[[ProcessorMixin, Request], BatchFeature] = by_chat_template
    forward_arguments: Mapping[str, object] = field(default_factory=dict)
    embed: Callable[[PreTrainedModel, torch.Tensor], torch.Tensor] = token_embeddings
    merging_module: str = ""
    transcript: Callable[[str], str] = as_generated
    names: NamesField | None = after_instruction
    needs: str = ""
    tested: bool = True


OWN_TYPE = "adapt_composed"  # the model type of the models that `adapt base` builds
OWN_FAMILY = Family("ComposedForSpeechRecognition")

# The model types of transformers that replace tokens of the LLM's input by audio embeddings.
FAMILIES = {
    "audioflamingo3": Family(
        "AudioFlamingo3ForConditionalGeneration",
        by_transcription_request,
        transcript=unquoted,
        names=after_default_prompt,
    ),
    "dots3_note": Family("Dots3NoteForConditionalGeneration", needs="torchvision"),
    "fun_asr_nano": Family(
        "FunAsrNanoForConditionalGeneration", by_transcription_request, names=as_keywords, needs="torchaudio"
    ),
    "gemma3n": Family("Gemma3nForConditionalGeneration", embed=gemma3n_embeddings, needs="timm"),
    "gemma4": Family("Gemma4ForConditionalGeneration", needs="torchvision"),
    "gemma4_unified": Family("Gemma4UnifiedForConditionalGeneration", needs="torchvision"),
    "glmasr": Family("GlmAsrForConditionalGeneration", by_transcription_request, names=after_default_prompt),
    "granite_speech": Family(
        "GraniteSpeechForConditionalGeneration", names=in_instruction("Keywords: {}"), needs="torchaudio"
    ),
    "granite_speech_plus": Family(
        "GraniteSpeechPlusForConditionalGeneration", names=in_instruction("Keywords: {}"), needs="torchaudio"
    ),
    "inkling_mm_model": Family("InklingForConditionalGeneration", needs="torchvision"),
    "moss_transcribe_diarize": Family(
        "MossTranscribeDiarizeForConditionalGeneration",
        by_transcription_request,
        transcript=without_times,
        names=as_keywords,
    ),
    "muse_spark": Family("MuseSparkForConditionalGeneration", needs="torchvision"),
    "musicflamingo": Family("MusicFlamingoForConditionalGeneration", transcript=unquoted),
    "nemo_speechlm": Family(
        "Nemotron3_5TranscribeForConditionalGeneration", by_transcription_request, names=after_default_prompt
    ),
    "nemotron_h_omni": Family("NemotronH_Omni_Reasoning_V3", transcript=after_thinking, needs="torchvision"),
    "phi4_multimodal": Family(
        "Phi4MultimodalForCausalLM",
        by_tokenizer_chat_template,
        merging_module="embed_tokens_extend",
        needs="torchvision",
    ),
    # The two untested Qwen types consist of a thinker, which is one of the tested types, and parts that generate audio.
    "qwen2_5_omni": Family("Qwen2_5OmniForConditionalGeneration", needs="torchvision", tested=False),
    "qwen2_5_omni_thinker": Family("Qwen2_5OmniThinkerForConditionalGeneration", needs="torchvision"),
    "qwen2_audio": Family("Qwen2AudioForConditionalGeneration"),
    "qwen3_asr": Family("Qwen3ASRForConditionalGeneration", by_transcription_request_in_language, names=as_context),
    "qwen3_omni_moe": Family("Qwen3OmniMoeForConditionalGeneration", needs="torchvision", tested=False),
    "qwen3_omni_moe_thinker": Family("Qwen3OmniMoeThinkerForConditionalGeneration", needs="torchvision"),
    "vibevoice_asr": Family(
        "VibeVoiceAsrForConditionalGeneration",
        by_transcription_request,
        forward_arguments={"sample": False},  # otherwise it draws its latents at random
        transcript=joined_segments,
        names=as_context,
    ),
    "voxtral": Family("VoxtralForConditionalGeneration", by_mistral_request, names=None, needs="mistral_common"),
}


def family_of(config: PreTrainedConfig) -> Family:
    """The row of a supported model type; OWN_FAMILY for any other."""
    return FAMILIES.get(config.model_type, OWN_FAMILY)
