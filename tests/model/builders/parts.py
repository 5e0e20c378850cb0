"""Parts of tiny models: tokenizers, chat templates, configurations, and how a model is saved with its processor."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import tokenizers
import torch
import transformers as T
from tokenizers import models, normalizers, pre_tokenizers, trainers

from adapt.model.compose import compose
from adapt.model.encoders import pretrained
from adapt.model.families import FAMILIES
from adapt.model.first_pass import token_letters
from adapt.model.load import view
from adapt.model.speech_llm import SpeechLLM

# Why the processor of a model type cannot be built here.
WITHOUT_PROCESSOR = {"voxtral_realtime": "it is not supported: its prompt has no slot"}
WITHOUT_PROCESSOR |= {
    kind: f"needs {family.needs}" for kind, family in FAMILIES.items() if family.needs and not find_spec(family.needs)
}

TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "max_position_embeddings": 4096}
ENCODER = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
WHISPER = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "num_mel_bins": 80}

CORPUS = [
    "the patient was given ten milligrams of the drug and the pain went away",
    "please transcribe this audio into text and write what you hear",
    "You are a helpful assistant. Transcribe the speech in the recording.",
]
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


# ------------------------------------------------------------------------------------------- tokenizers and templates


def bpe(tokenizer: tokenizers.Tokenizer, base: list[str], **train) -> dict:
    """The vocabulary and merges of a BPE tokenizer trained on CORPUS: `base` and 40 merges."""
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=len(base) + 40, show_progress=False, **train))
    state = json.loads(tokenizer.to_str())["model"]
    return {"vocab": state["vocab"], "merges": [tuple(pair) for pair in state["merges"]]}


def byte_level_tokenizer(*special: str, eos: str = "<|im_end|>", pad: str = "<|endoftext|>", **named: str):
    """Byte-level BPE, as in GPT-2 and Qwen. named: special tokens that a processor reads as attributes."""
    tokenizer, alphabet = tokenizers.Tokenizer(models.BPE()), sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return T.Qwen2Tokenizer(
        **bpe(tokenizer, alphabet, initial_alphabet=alphabet),
        eos_token=eos,
        pad_token=pad,
        unk_token=pad,
        extra_special_tokens=[*CHATML, *special],
        model_specific_special_tokens=named,
    )


def gemma_tokenizer(*special: str, **named: str):
    """BPE with byte fallback, as in Gemma."""
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    base = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *special, *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = sorted(set("".join(CORPUS).replace(" ", "▁")))
    return T.GemmaTokenizer(
        **bpe(tokenizer, base + letters, special_tokens=base, initial_alphabet=letters),
        extra_special_tokens=list(special),
        model_specific_special_tokens=named,  # their ids follow those of the text
    )


def chat(audio: str, start="<|im_start|>{role}\n", end="<|im_end|>\n", reply="<|im_start|>assistant\n", **parts) -> str:
    """A Jinja chat template. audio: written for each audio. start: may hold `{role}`. parts: other content types."""
    write = f"{{% if part.type == 'audio' %}}{audio}{{% elif part.type == 'text' %}}{{{{ part.text }}}}"
    write += "".join(f"{{% elif part.type == '{kind}' %}}{piece}" for kind, piece in parts.items()) + "{% endif %}"
    return (
        "{% for message in messages %}" + start.replace("{role}", "{{ message.role }}") + "{% if message.content is "
        "string %}{{ message.content }}{% else %}{% for part in message.content %}" + write + "{% endfor %}{% endif %}"
        + end + "{% endfor %}{% if add_generation_prompt %}" + reply + "{% endif %}"
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ configs and saving


def text(tokenizer, model_type: str, **settings) -> dict:
    """The config of the decoder, with the vocabulary of the tokenizer."""
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return TEXT | ids | {"model_type": model_type, "vocab_size": len(tokenizer)} | settings


def save(folder: Path, model_class: type, config, tokenizer, processor: Callable) -> None:
    """Save a model with weights wide enough that logits are well apart, and `processor()` if it can be built here."""
    torch.manual_seed(0)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # biases, norms and decay rates keep their initial values
                parameter.normal_(std=0.2)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    model.generation_config = T.GenerationConfig(**ids)
    model.save_pretrained(folder)
    (tokenizer if config.model_type in WITHOUT_PROCESSOR else processor()).save_pretrained(folder)


def tiny_whisper(folder: Path, **sizes) -> Path:
    """Save a Whisper with random weights, and its tokenizer."""
    own = ("<|startoftranscript|>", "<|startofprev|>", "<|notimestamps|>")
    tokenizer = byte_level_tokenizer(*own, eos="<|endoftext|>")
    size = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
    size |= {"decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 64, "vocab_size": len(tokenizer)}
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), tokenizer.eos_token_id)
    start = tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
    torch.manual_seed(0)
    config = T.WhisperConfig(**size, **ids, decoder_start_token_id=start, **sizes)
    T.WhisperForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def transcribing_llm(whisper: Path) -> SpeechLLM:
    """A base of the Whisper in a folder, which transcribes, and a tiny Llama."""
    tokenizer = byte_level_tokenizer()
    torch.manual_seed(1)
    llm = T.LlamaForCausalLM(T.LlamaConfig(vocab_size=len(tokenizer), **TEXT))
    encoder = pretrained(str(whisper), "abcdefghijklmnopqrstuvwxyz' ", first_pass="en")
    theirs = T.AutoTokenizer.from_pretrained(whisper)
    letters = token_letters(theirs, encoder.encoder.config.first_pass["end"])
    model = compose(encoder, llm, tokenizer, letters=letters, projector="first-pass", projector_size=16)
    return view("w", model.eval(), tokenizer)


def whisper_features() -> T.WhisperFeatureExtractor:
    return T.WhisperFeatureExtractor(feature_size=80)
