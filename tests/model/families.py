"""A builder for each tested family: it writes a tiny model of random weights, with its processor, to a folder."""

from collections.abc import Callable
from pathlib import Path

from .builders import audio, multimodal
from .builders.parts import WITHOUT_PROCESSOR

WITHOUT_MODEL = {
    "gemma3n"
} & WITHOUT_PROCESSOR.keys()  # its vision tower is a timm model: without timm nothing is saved

BUILDERS: dict[str, Callable[[Path], None]] = {  # by the model type of the saved config
    "qwen2_audio": audio.qwen2_audio,
    "granite_speech": audio.granite_speech,
    "granite_speech_plus": audio.granite_speech_plus,
    "audioflamingo3": audio.audioflamingo3,
    "musicflamingo": audio.musicflamingo,
    "glmasr": audio.glmasr,
    "fun_asr_nano": audio.fun_asr_nano,
    "moss_transcribe_diarize": audio.moss_transcribe_diarize,
    "qwen3_asr": audio.qwen3_asr,
    "vibevoice_asr": audio.vibevoice_asr,
    "phi4_multimodal": multimodal.phi4_multimodal,
    "qwen2_5_omni_thinker": multimodal.qwen2_5_omni_thinker,
    "qwen3_omni_moe_thinker": multimodal.qwen3_omni_moe_thinker,
    "gemma3n": multimodal.gemma3n,
    "gemma4": multimodal.gemma4,
    "gemma4_unified": multimodal.gemma4_unified,
    "nemo_speechlm": multimodal.nemotron3_5_transcribe,
    "nemotron_h_omni": multimodal.nemotron_h_omni,
    "dots3_note": multimodal.dots3_note,
    "inkling_mm_model": multimodal.inkling,
    "muse_spark": multimodal.muse_spark,
    "voxtral": audio.voxtral,
}
