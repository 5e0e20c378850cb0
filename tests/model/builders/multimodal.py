"""Tiny models of the speech LLMs that take images or video too. Each builder writes one to a folder."""

from collections.abc import Callable
from pathlib import Path

import transformers as T

from .parts import ENCODER, WHISPER, byte_level_tokenizer, chat, gemma_tokenizer, save, text, whisper_features


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
    """The thinker alone: the part of Qwen's omni models that takes audio and generates text.

    Real checkpoints also hold the talker and the vocoder (model types qwen2_5_omni and qwen3_omni_moe), and have the
    weights of the thinker under `thinker.`.
    """
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
