"""Tiny models of random weights of every audio-input LLM in transformers, each saved with its processor to a folder."""

import base64
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import tokenizers
import torch
import transformers as T
from tokenizers import models, normalizers, pre_tokenizers, trainers

from adapt.model.support import NEEDS

WITHOUT_PROCESSOR = {"voxtral_realtime": "its prompt holds no audio: it is here to be refused"}
WITHOUT_PROCESSOR |= {family: f"needs {package}" for family, package in NEEDS.items() if find_spec(package) is None}

WITHOUT_MODEL = {"gemma3n"} & WITHOUT_PROCESSOR.keys()  # its vision tower is a timm model: nothing can be saved

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
    """The vocabulary and merges of a BPE tokenizer trained on a few lines: `base` and 40 merges."""
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=len(base) + 40, show_progress=False, **train))
    state = json.loads(tokenizer.to_str())["model"]
    return {"vocab": state["vocab"], "merges": [tuple(pair) for pair in state["merges"]]}


def byte_level_tokenizer(*special: str, eos: str = "<|im_end|>", pad: str = "<|endoftext|>", **named: str):
    """Byte-level BPE, as of GPT-2 and Qwen. `named` are the special tokens a processor asks for as attributes."""
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
    """BPE with byte fallback, as of Gemma."""
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    base = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *special, *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = sorted(set("".join(CORPUS).replace(" ", "▁")))
    return T.GemmaTokenizer(
        **bpe(tokenizer, base + letters, special_tokens=base, initial_alphabet=letters),
        extra_special_tokens=list(special),
        model_specific_special_tokens=named,  # after the text's entries
    )


def chat(audio: str, start="<|im_start|>{role}\n", end="<|im_end|>\n", reply="<|im_start|>assistant\n", **parts) -> str:
    """A Jinja chat template: `audio` for each audio of a turn, `{role}` in `start`; `parts` for other content types."""
    write = f"{{% if part.type == 'audio' %}}{audio}{{% elif part.type == 'text' %}}{{{{ part.text }}}}"
    write += "".join(f"{{% elif part.type == '{kind}' %}}{piece}" for kind, piece in parts.items()) + "{% endif %}"
    return (
        "{% for message in messages %}" + start.replace("{role}", "{{ message.role }}") + "{% if message.content is "
        "string %}{{ message.content }}{% else %}{% for part in message.content %}" + write + "{% endfor %}{% endif %}"
        + end + "{% endfor %}{% if add_generation_prompt %}" + reply + "{% endif %}"
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ configs and saving


def text(tokenizer, model_type: str, **more) -> dict:
    """The text decoder's config, its vocabulary that of the tokenizer."""
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return TEXT | ids | {"model_type": model_type, "vocab_size": len(tokenizer)} | more


def save(folder: Path, model_class: type, config, tokenizer, processor: Callable) -> None:
    """Save a model, its weights spread such that logits are well apart, and `processor()` if it can be built here."""
    torch.manual_seed(0)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # biases, norms and decay rates keep their first values
                parameter.normal_(std=0.2)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    model.generation_config = T.GenerationConfig(**ids)
    model.save_pretrained(folder)
    (tokenizer if config.model_type in WITHOUT_PROCESSOR else processor()).save_pretrained(folder)


def whisper_features() -> T.WhisperFeatureExtractor:
    return T.WhisperFeatureExtractor(feature_size=80)


# ----------------------------------------------------------------------------------------------------------- families


def qwen2_audio(folder: Path) -> None:
    tokenizer = byte_level_tokenizer("<|audio_bos|>", "<|audio_eos|>", audio_token="<|AUDIO|>")
    config = T.Qwen2AudioConfig(
        audio_config=WHISPER, text_config=text(tokenizer, "qwen2"), audio_token_index=tokenizer.audio_token_id
    )
    model = T.Qwen2AudioForConditionalGeneration  # the processor has a chat template of its own
    save(folder, model, config, tokenizer, lambda: T.Qwen2AudioProcessor(whisper_features(), tokenizer))


def granite(folder: Path, model: type, config_class: type, encoder_class: type) -> None:
    named = {"audio_token": "<|audio|>"}
    tokenizer = byte_level_tokenizer("<|start_of_role|>", "<|end_of_role|>", eos="<|end_of_text|>", **named)
    encoder = {"input_dim": 160, "num_layers": 2, "hidden_dim": 32, "num_heads": 2, "output_dim": 10}
    qformer = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = config_class(
        text_config=text(tokenizer, "granite", embedding_multiplier=12.0, logits_scaling=8.0, tie_word_embeddings=True),
        encoder_config=encoder_class(**encoder, context_size=20, max_pos_emb=32),
        projector_config={"model_type": "blip_2_qformer", **qformer, "encoder_hidden_size": 32},
        audio_token_index=tokenizer.audio_token_id,
        has_lora_adapter=False,
    )
    start, reply = "<|start_of_role|>{role}<|end_of_role|>", "<|start_of_role|>assistant<|end_of_role|>"
    template = chat("<|audio|>", start, "<|end_of_text|>\n", reply)
    features = T.GraniteSpeechFeatureExtractor
    processor = T.GraniteSpeechProcessor
    save(folder, model, config, tokenizer, lambda: processor(features(), tokenizer, chat_template=template))


def granite_speech(folder: Path) -> None:
    encoder = T.GraniteSpeechEncoderConfig
    granite(folder, T.GraniteSpeechForConditionalGeneration, T.GraniteSpeechConfig, encoder)


def granite_speech_plus(folder: Path) -> None:
    encoder = T.GraniteSpeechPlusEncoderConfig
    granite(folder, T.GraniteSpeechPlusForConditionalGeneration, T.GraniteSpeechPlusConfig, encoder)


def flamingo(folder: Path, model: type, config_class: type, processor: type, *special: str) -> None:
    tokenizer = byte_level_tokenizer(*special, audio_token="<sound>")
    config = config_class(
        audio_config={"model_type": "audioflamingo3_encoder", **ENCODER, "num_mel_bins": 80},
        text_config=text(tokenizer, "qwen2"),
        audio_token_id=tokenizer.audio_token_id,
    )
    template = chat("<sound>")
    save(folder, model, config, tokenizer, lambda: processor(whisper_features(), tokenizer, chat_template=template))


def audioflamingo3(folder: Path) -> None:
    flamingo(folder, T.AudioFlamingo3ForConditionalGeneration, T.AudioFlamingo3Config, T.AudioFlamingo3Processor)


def musicflamingo(folder: Path) -> None:
    special = ("<|sound_bos|>", "<|sound_eos|>")
    model = T.MusicFlamingoForConditionalGeneration
    flamingo(folder, model, T.MusicFlamingoConfig, T.MusicFlamingoProcessor, *special)


def glmasr(folder: Path) -> None:
    special = ("<|user|>", "<|assistant|>", "<|begin_of_audio|>", "<|end_of_audio|>")
    tokenizer = byte_level_tokenizer(*special, eos="<|endoftext|>", audio_token="<|pad|>")
    config = T.GlmAsrConfig(
        audio_config={"model_type": "glmasr_encoder", **ENCODER, "num_mel_bins": 80},
        text_config=text(tokenizer, "llama"),
        audio_token_id=tokenizer.audio_token_id,
    )
    audio = "<|begin_of_audio|><|pad|><|end_of_audio|><|user|>\n"
    template = chat(audio, start="<|{role}|>\n", end="", reply="<|assistant|>\n")
    processor, model = T.GlmAsrProcessor, T.GlmAsrForConditionalGeneration
    save(folder, model, config, tokenizer, lambda: processor(whisper_features(), tokenizer, chat_template=template))


def fun_asr_nano(folder: Path) -> None:
    tokenizer = byte_level_tokenizer(audio_token="<|object_ref_start|>")
    config = T.FunAsrNanoConfig(
        audio_config=ENCODER | {"num_hidden_layers": 3, "num_timestamp_prediction_layers": 1, "num_mel_bins": 80},
        adaptor_config=ENCODER | {"hidden_size": 32, "intermediate_size": 8, "projector_hidden_size": 32},
        text_config=text(tokenizer, "qwen3", head_dim=8),
        audio_token_id=tokenizer.audio_token_id,
    )
    keywords = "Keywords: {{ part.keywords | join(', ') }}. "
    template = chat("<|object_ref_start|>", keywords=keywords, language="Write {{ part.language }}. ")
    features, processor = T.FunAsrNanoFeatureExtractor, T.FunAsrNanoProcessor
    model = T.FunAsrNanoForConditionalGeneration
    save(folder, model, config, tokenizer, lambda: processor(features(), tokenizer, chat_template=template))


def moss_transcribe_diarize(folder: Path) -> None:
    named = {"audio_token": "<|audio_pad|>", "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"}
    tokenizer = byte_level_tokenizer(**named)
    config = T.MossTranscribeDiarizeConfig(
        audio_config=WHISPER,
        text_config=text(tokenizer, "qwen3", head_dim=8),
        audio_token_id=tokenizer.audio_token_id,
    )
    audio = "<|audio_start|><|audio_pad|><|audio_end|>Transcribe with speakers and timestamps. "
    template = chat(audio, keywords="Hotwords: {{ part.keywords | join(', ') }}. ")
    features, processor = T.MossTranscribeDiarizeFeatureExtractor, T.MossTranscribeDiarizeProcessor
    model = T.MossTranscribeDiarizeForConditionalGeneration
    save(folder, model, config, tokenizer, lambda: processor(features(), tokenizer, chat_template=template))


def qwen3_asr(folder: Path) -> None:
    named = {"audio_token": "<|audio_pad|>", "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"}
    tokenizer = byte_level_tokenizer("<asr_text>", **named)
    config = T.Qwen3ASRConfig(
        audio_config=WHISPER | {"output_dim": 32, "downsample_hidden_size": 8},
        text_config=text(tokenizer, "qwen3", head_dim=8),
        audio_token_id=tokenizer.audio_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    template = chat("<|audio_start|><|audio_pad|><|audio_end|>")
    features, processor = T.Qwen3ASRFeatureExtractor, T.Qwen3ASRProcessor
    model = T.Qwen3ASRForConditionalGeneration
    make = lambda: processor(features(feature_size=80), tokenizer, chat_template=template)  # noqa: E731
    save(folder, model, config, tokenizer, make)


def vibevoice_asr(folder: Path) -> None:
    named = {"audio_token": "<|box_start|>", "audio_bos_token": "<|object_ref_start|>"}
    tokenizer = byte_level_tokenizer(**named, audio_eos_token="<|object_ref_end|>")
    encoder = {"model_type": "vibevoice_acoustic_tokenizer_encoder", "channels": 1, "num_filters": 4, "hidden_size": 16}
    encoder |= {"downsampling_ratios": [40, 80], "depths": [1, 1, 1]}  # 3200 samples an embedding
    config = T.VibeVoiceAsrConfig(
        acoustic_tokenizer_encoder_config=encoder,
        semantic_tokenizer_encoder_config=encoder,
        text_config=text(tokenizer, "qwen2"),
        audio_token_id=tokenizer.audio_token_id,
        audio_bos_token_id=tokenizer.audio_bos_token_id,
        audio_eos_token_id=tokenizer.audio_eos_token_id,
    )
    audio = "<|object_ref_start|><|box_start|><|object_ref_end|>\nThis is <|AUDIO_DURATION|> seconds of audio. "
    template = chat(audio + "Transcribe it as JSON with Start, End, Speaker and Content. ")
    features, processor = T.VibeVoiceAcousticTokenizerFeatureExtractor, T.VibeVoiceAsrProcessor
    model = T.VibeVoiceAsrForConditionalGeneration
    save(folder, model, config, tokenizer, lambda: processor(features(), tokenizer, chat_template=template))


def phi4_multimodal(folder: Path) -> None:
    named = {"audio_token": "<|endoftext11|>", "image_token": "<|endoftext10|>"}
    tokenizer = byte_level_tokenizer("<|user|>", "<|assistant|>", "<|end|>", eos="<|end|>", **named)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    audio = size | {
        "num_blocks": 2,
        "ext_pw_out_channel": 16,
        "depthwise_separable_out_channel": 16,
        "nemo_conv_channels": 8,
    }
    config = T.Phi4MultimodalConfig(
        **text(tokenizer, "phi4_multimodal", original_max_position_embeddings=4096),
        audio_config=audio | {"audio_token_id": tokenizer.audio_token_id, "feature_layer": -2},
        vision_config=size
        | {"num_hidden_layers": 2, "image_size": 28, "patch_size": 14, "crop_size": 28}
        | {"image_token_id": tokenizer.image_token_id},
    )
    # the processor drops a chat template of its own: it is the tokenizer's
    tokenizer.chat_template = chat("<|endoftext11|>", start="<|{role}|>", end="<|end|>", reply="<|assistant|>")

    def processor():
        images, features = T.Phi4MultimodalImageProcessor(), T.Phi4MultimodalFeatureExtractor()
        return T.Phi4MultimodalProcessor(images, features, tokenizer)

    save(folder, T.Phi4MultimodalForCausalLM, config, tokenizer, processor)


def qwen_omni(folder: Path, model: type, processor_class: type, config: Callable, audio: str, start: str, end: str):
    """The thinker alone: the part of Qwen's omni models that reads audio and writes text. Real checkpoints hold the
    talker and the vocoder too (model_type qwen2_5_omni, qwen3_omni_moe), the thinker's weights under `thinker.`."""
    named = {"audio_token": audio, "audio_bos_token": start, "audio_eos_token": end}
    named |= {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    named |= {"vision_bos_token": "<|vision_start|>", "vision_eos_token": "<|vision_end|>"}
    tokenizer = byte_level_tokenizer(**named)

    def processor():
        vision = T.Qwen2VLImageProcessor(), T.Qwen2VLVideoProcessor()
        return processor_class(*vision, whisper_features(), tokenizer, chat_template=chat(start + audio + end))

    save(folder, model, config(tokenizer), tokenizer, processor)


VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}


def qwen2_5_omni_thinker(folder: Path) -> None:
    def config(tokenizer):
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
        return T.Qwen2_5OmniThinkerConfig(
            text_config=text(tokenizer, "qwen2_5_omni_text", rope_parameters=rope),
            audio_config=WHISPER | {"output_dim": 32},
            vision_config=VISION | {"fullatt_block_indexes": [0]},
            audio_token_index=tokenizer.audio_token_id,
            image_token_index=tokenizer.image_token_id,
            video_token_index=tokenizer.video_token_id,
            audio_start_token_id=tokenizer.audio_bos_token_id,
            audio_end_token_id=tokenizer.audio_eos_token_id,
            vision_start_token_id=tokenizer.vision_bos_token_id,
            vision_end_token_id=tokenizer.vision_eos_token_id,
        )

    model = T.Qwen2_5OmniThinkerForConditionalGeneration
    qwen_omni(folder, model, T.Qwen2_5OmniProcessor, config, "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")


def qwen3_omni_moe_thinker(folder: Path) -> None:
    def config(tokenizer):
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2], "mrope_interleaved": True}
        experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
        return T.Qwen3OmniMoeThinkerConfig(
            text_config=text(tokenizer, "qwen3_omni_moe_text", head_dim=8, rope_parameters=rope, **experts),
            audio_config=WHISPER | {"output_dim": 32, "downsample_hidden_size": 8},
            vision_config=VISION | {"deepstack_visual_indexes": [0]},
            audio_token_id=tokenizer.audio_token_id,
            image_token_id=tokenizer.image_token_id,
            video_token_id=tokenizer.video_token_id,
            audio_start_token_id=tokenizer.audio_bos_token_id,
            vision_start_token_id=tokenizer.vision_bos_token_id,
        )

    model = T.Qwen3OmniMoeThinkerForConditionalGeneration
    qwen_omni(folder, model, T.Qwen3OmniMoeProcessor, config, "<|audio_pad|>", "<|audio_start|>", "<|audio_end|>")


LAYERS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16, "head_dim": 8}


def gemma3n(folder: Path) -> None:
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    named |= {"audio_token": "<audio_soft_token>", "boa_token": "<start_of_audio>", "eoa_token": "<end_of_audio>"}
    tokenizer = gemma_tokenizer("<start_of_turn>", "<end_of_turn>", **named)
    images, audio = ({"vocab_size": 3, "vocab_offset": len(tokenizer) - after} for after in (6, 3))
    layers = LAYERS | {"num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0, 0.0]}
    layers |= {"hidden_size_per_layer_input": 8, "laurel_rank": 4, "altup_num_inputs": 2}
    audio |= {"hidden_size": 32, "conf_num_attention_heads": 2, "conf_num_hidden_layers": 1}
    config = T.Gemma3nConfig(
        text_config=text(tokenizer, "gemma3n_text", vocab_size_per_layer_input=images["vocab_offset"], **layers),
        audio_config=audio | {"input_feat_size": 128, "sscp_conv_channel_size": (8, 4)},
        vision_config=images | {"architecture": "test_resnet", "hidden_size": 16},
        audio_token_id=tokenizer.audio_token_id,
        image_token_id=tokenizer.image_token_id,
        boa_token_id=tokenizer.boa_token_id,
        eoa_token_id=tokenizer.eoa_token_id,
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
    )
    turn = "<start_of_turn>{role}\n", "<end_of_turn>\n", "<start_of_turn>model\n"

    def processor():
        features, images = T.Gemma3nAudioFeatureExtractor(), T.SiglipImageProcessorPil()
        return T.Gemma3nProcessor(features, images, tokenizer, chat_template=chat("<audio_soft_token>", *turn))

    save(folder, T.Gemma3nForConditionalGeneration, config, tokenizer, processor)


def gemma4_tokenizer():
    named = {"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"}
    named |= {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"}
    return gemma_tokenizer("<|turn>", "<turn|>", "<|video|>", **named)


def gemma4_ids(tokenizer) -> dict:
    ids = {f"{kind}_token_id": tokenizer.convert_tokens_to_ids(f"<|{kind}|>") for kind in ("audio", "image", "video")}
    edges = {f"{edge}_token_id": getattr(tokenizer, f"{edge}_token_id") for edge in ("boa", "boi", "eoi")}
    return ids | edges | {"vision_config": None}


GEMMA4_CHAT = chat("<|audio|>", "<|turn>{role}\n", "<turn|>\n", "<|turn>model\n")


def gemma4(folder: Path) -> None:
    tokenizer = gemma4_tokenizer()
    layers = LAYERS | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": len(tokenizer)}
    audio = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = T.Gemma4Config(
        text_config=text(tokenizer, "gemma4_text", num_kv_shared_layers=0, **layers),
        audio_config=audio | {"subsampling_conv_channels": [128, 4], "output_proj_dims": 24},
        **gemma4_ids(tokenizer),
    )

    def processor():
        parts = T.Gemma4AudioFeatureExtractor(), T.Gemma4ImageProcessor(), tokenizer, T.Gemma4VideoProcessor()
        return T.Gemma4Processor(*parts, chat_template=GEMMA4_CHAT)

    save(folder, T.Gemma4ForConditionalGeneration, config, tokenizer, processor)


def gemma4_unified(folder: Path) -> None:
    tokenizer = gemma4_tokenizer()
    config = T.Gemma4UnifiedConfig(
        text_config=text(tokenizer, "gemma4_unified_text", **LAYERS),
        audio_config={"audio_embed_dim": 640},
        **gemma4_ids(tokenizer),
    )

    def processor():
        images, videos = T.Gemma4UnifiedImageProcessor(), T.Gemma4UnifiedVideoProcessor()
        features = T.Gemma4UnifiedAudioFeatureExtractor()
        return T.Gemma4UnifiedProcessor(features, images, tokenizer, videos, chat_template=GEMMA4_CHAT)

    save(folder, T.Gemma4UnifiedForConditionalGeneration, config, tokenizer, processor)


MAMBA = {"layers_block_type": ["mamba", "attention", "mlp"], "num_hidden_layers": 3, "mamba_num_heads": 4}
MAMBA |= {"mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2, "chunk_size": 8, "head_dim": 8}


def nemotron3_5_transcribe(folder: Path) -> None:
    tokenizer = byte_level_tokenizer("<|audio|>")  # its last token, which has no embedding
    placeholder = tokenizer.convert_tokens_to_ids("<|audio|>")
    alignment = byte_level_tokenizer()
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    head = {"audio_hidden_size": 32, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    diarization = {"audio_config": small, "head_config": head}
    pieces = {"vocab_size": len(alignment) + 1, "blank_token_id": len(alignment)}
    config = T.Nemotron3_5TranscribeConfig(
        text_config=text(tokenizer, "nemotron_h") | MAMBA | {"vocab_size": placeholder},
        audio_config={"asr_config": small, "diarization_config": diarization},
        word_timestamp_config=small | pieces,
        audio_token_id=placeholder,
    )

    def processor():
        features = T.ParakeetFeatureExtractor(feature_size=128)
        parts = features, tokenizer, alignment
        return T.Nemotron3_5TranscribeProcessor(*parts, chat_template=chat("<|audio|>"))

    save(folder, T.Nemotron3_5TranscribeForConditionalGeneration, config, tokenizer, processor)


def nemotron_h_omni(folder: Path) -> None:
    named = {"audio_token": "<so_embedding>", "image_token": "<image>", "video_token": "<video>"}
    tokenizer = byte_level_tokenizer("<so_start>", "<so_end>", "<img>", "</img>", **named)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = T.NemotronH_Omni_Reasoning_V3_Config(
        text_config=text(tokenizer, "nemotron_h") | MAMBA,
        audio_config=small | {"model_type": "parakeet_encoder", "projection_hidden_size": 32, "projection_bias": False},
        vision_config=small | {"model_type": "radio", "hidden_size": 16, "video_temporal_patch_size": 2},
        vision_hidden_size=16,
        projector_hidden_size=16,
        audio_token_id=tokenizer.audio_token_id,
        image_token_id=tokenizer.image_token_id,
    )

    def processor():
        vision = T.NemotronH_Omni_Reasoning_V3ImageProcessor(), T.NemotronH_Omni_Reasoning_V3VideoProcessor()
        parts = *vision, tokenizer, T.ParakeetFeatureExtractor(feature_size=80)
        return T.NemotronH_Omni_Reasoning_V3Processor(*parts, chat_template=chat("<so_embedding>"))

    save(folder, T.NemotronH_Omni_Reasoning_V3, config, tokenizer, processor)


def dots3_note(folder: Path) -> None:
    named = {"audio_token": "<|audio_comp_pad|>", "image_token": "<|imgpad|>", "video_token": "<|video_pad|>"}
    tokenizer = byte_level_tokenizer(**named)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    heads = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    heads |= {"head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 4}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    index = {"index_topk": 2048, "index_head_dim": 16, "index_n_heads": 2, "shared_experts_intermediate_size": 16}
    sliding = {f"swa_{name}": value for name, value in heads.items()}
    layers = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 16}
    config = T.Dots3NoteConfig(
        text_config=text(tokenizer, "dots3_note_text") | heads | experts | index | sliding | layers,
        audio_config=small | {"downsample_hidden_size": 8, "adapter_input_size": 32, "adapter_out_dim": 32},
        vision_config=small
        | {"mlp_layer_types": ["dense", "dense"], "adapter_in_dim": 32, "adapter_out_dim": 32, "patch_size": 14},
        audio_token_id=tokenizer.audio_token_id,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
    )

    def processor():
        vision = {"image_processor": T.Qwen2VLImageProcessor(), "video_processor": T.Qwen3VLVideoProcessor()}
        parts = vision | {"feature_extractor": T.Dots3NoteFeatureExtractor(), "tokenizer": tokenizer}
        return T.Dots3NoteProcessor(**parts, chat_template=chat("<|audio_comp_pad|>"))

    save(folder, T.Dots3NoteForConditionalGeneration, config, tokenizer, processor)


def inkling(folder: Path) -> None:
    named = {"audio_token": "<|unused_200053|>", "image_token": "<|unused_200054|>"}
    tokenizer = byte_level_tokenizer("<|content_image|>", "<|content_audio_input|>", **named)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1}
    experts |= {"logits_mup_width_multiplier": 1.0}
    layers = {"local_layer_ids": [0], "sliding_window_size": 16, "d_rel": 4, "rel_extent": 16}
    sliding = {f"swa_{name}": value for name, value in heads.items()}
    config = T.InklingConfig(
        text_config=text(tokenizer, "inkling_text", bos_token_id=None) | heads | sliding | experts | layers,
        audio_config={"mel_vocab_size": 16},
        vision_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        audio_token_id=tokenizer.audio_token_id,
        image_token_id=tokenizer.image_token_id,
        audio_bos_token_id=tokenizer.convert_tokens_to_ids("<|content_audio_input|>"),
        image_bos_token_id=tokenizer.convert_tokens_to_ids("<|content_image|>"),
    )

    def processor():
        parts = T.InklingFeatureExtractor(), T.InklingImageProcessor(), tokenizer
        return T.InklingProcessor(*parts, chat_template=chat("<|content_audio_input|><|unused_200053|>"))

    save(folder, T.InklingForConditionalGeneration, config, tokenizer, processor)


def muse_spark(folder: Path) -> None:
    named = {"audio_token": "<|audio|>", "image_token": "<|patch|>", "video_token": "<|video|>"}
    edges = {"audio": "soft_audio", "image": "image", "video": "vid"}
    named |= {f"{kind}_{edge}_token": f"<|{name}_{edge}|>" for kind, name in edges.items() for edge in ("start", "end")}
    tokenizer = byte_level_tokenizer("<|vid_frame_separator|>", **named)
    experts = {"moe_intermediate_size": 16, "moe_hidden_size": 16, "num_local_experts": 4, "num_experts_per_tok": 2}
    audio = {"patch_sizes": [40, 48], "hidden_sizes": [8, 16], "depths": [1, 1], "num_hidden_layers": 2}
    config = T.MuseSparkConfig(
        text_config=text(tokenizer, "muse_spark_text", head_dim=8, sliding_window=16, output_multiplier=1.0, **experts),
        audio_config=audio | {"out_hidden_size": 32},
        vision_config=ENCODER | {"pos_emb_height": 4, "pos_emb_width": 4},
        out_hidden_size=64,
        projector_hidden_size=16,
        audio_token_id=tokenizer.audio_token_id,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
    )

    def processor():
        vision = T.MuseGlimmerImageProcessor(), T.MuseGlimmerVideoProcessor()
        return T.MuseSparkProcessor(*vision, tokenizer, T.MuseSparkFeatureExtractor(), chat_template=chat("<|audio|>"))

    save(folder, T.MuseSparkForConditionalGeneration, config, tokenizer, processor)


def mistral_tokenizer(folder: Path):
    """A tekken.json of 256 bytes and 40 special tokens, of which Voxtral's audio placeholder is token 24."""
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"]
    special += ["[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"]
    special += [
        "[SUFFIX]",
        "[SYSTEM_PROMPT]",
        "[/SYSTEM_PROMPT]",
        "[TOOL_CONTENT]",
        *(f"<SPECIAL_{i}>" for i in range(20, 24)),
    ]
    special += ["[AUDIO]", "[BEGIN_AUDIO]", *(f"<SPECIAL_{i}>" for i in range(26, 34)), "[TRANSCRIBE]"]
    special += [f"<SPECIAL_{i}>" for i in range(35, 40)]
    data = {byte: base64.b64encode(bytes([byte])).decode() for byte in range(256)}
    spectrogram = {"num_mel_bins": 80, "hop_length": 160, "window_size": 400}
    audio = {"sampling_rate": 16000, "frame_rate": 12.5, "audio_encoding_config": spectrogram, "chunk_length_s": 30.0}
    tekken = {
        "vocab": [{"rank": i, "token_bytes": token, "token_str": None} for i, token in data.items()],
        "special_tokens": [{"rank": i, "token_str": token, "is_control": True} for i, token in enumerate(special)],
        "config": {"pattern": r"[^\s]+|\s+", "num_vocab_tokens": 256, "default_vocab_size": 256 + len(special)}
        | {"default_num_special_tokens": len(special), "version": "v7"},
        "audio": audio,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tekken.json").write_text(json.dumps(tekken))
    return T.MistralCommonBackend(tokenizer_path=str(folder / "tekken.json"))


def voxtral(folder: Path) -> None:
    if "voxtral" in WITHOUT_PROCESSOR:
        tokenizer = byte_level_tokenizer("[INST]", "[/INST]", "[BEGIN_AUDIO]", "[TRANSCRIBE]", "[AUDIO]")
    else:
        tokenizer = mistral_tokenizer(folder)
    config = T.VoxtralConfig(
        audio_config=ENCODER | {"num_mel_bins": 80},
        text_config=text(tokenizer, "llama", head_dim=8),
        audio_token_id=tokenizer.convert_tokens_to_ids("[AUDIO]"),
    )
    processor = T.VoxtralProcessor
    save(folder, T.VoxtralForConditionalGeneration, config, tokenizer, lambda: processor(whisper_features(), tokenizer))


def voxtral_realtime(folder: Path) -> None:
    tokenizer = byte_level_tokenizer("[STREAMING_PAD]")
    config = T.VoxtralRealtimeConfig(
        text_config=text(tokenizer, "voxtral_realtime_text", head_dim=8),
        audio_config=ENCODER | {"num_key_value_heads": 2, "head_dim": 8, "num_mel_bins": 80},
    )
    save(folder, T.VoxtralRealtimeForConditionalGeneration, config, tokenizer, lambda: tokenizer)


FAMILIES: dict[str, Callable[[Path], None]] = {  # by the model_type of the saved config
    "qwen2_audio": qwen2_audio,
    "granite_speech": granite_speech,
    "granite_speech_plus": granite_speech_plus,
    "audioflamingo3": audioflamingo3,
    "musicflamingo": musicflamingo,
    "glmasr": glmasr,
    "fun_asr_nano": fun_asr_nano,
    "moss_transcribe_diarize": moss_transcribe_diarize,
    "qwen3_asr": qwen3_asr,
    "vibevoice_asr": vibevoice_asr,
    "phi4_multimodal": phi4_multimodal,
    "qwen2_5_omni_thinker": qwen2_5_omni_thinker,
    "qwen3_omni_moe_thinker": qwen3_omni_moe_thinker,
    "gemma3n": gemma3n,
    "gemma4": gemma4,
    "gemma4_unified": gemma4_unified,
    "nemo_speechlm": nemotron3_5_transcribe,
    "nemotron_h_omni": nemotron_h_omni,
    "dots3_note": dots3_note,
    "inkling_mm_model": inkling,
    "muse_spark": muse_spark,
    "voxtral": voxtral,
    "voxtral_realtime": voxtral_realtime,
}
