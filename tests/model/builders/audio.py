"""Tiny models of the speech LLMs that take audio and text alone. Each builder writes one to a folder."""

import base64
import json
from pathlib import Path

import transformers as T

from .parts import ENCODER, WHISPER, WITHOUT_PROCESSOR, byte_level_tokenizer, chat, save, text, whisper_features


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
