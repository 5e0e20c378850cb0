"""Every model type of transformers that takes audio: which can be adapted, which cannot, and why. Without torch."""

from __future__ import annotations

from dataclasses import dataclass

# Model types whose audio stands in the place of tokens in the LLM's input: their class.
SUPPORTED = {
    "audioflamingo3": "AudioFlamingo3ForConditionalGeneration",
    "dots3_note": "Dots3NoteForConditionalGeneration",
    "fun_asr_nano": "FunAsrNanoForConditionalGeneration",
    "gemma3n": "Gemma3nForConditionalGeneration",
    "gemma4": "Gemma4ForConditionalGeneration",
    "gemma4_unified": "Gemma4UnifiedForConditionalGeneration",
    "glmasr": "GlmAsrForConditionalGeneration",
    "granite_speech": "GraniteSpeechForConditionalGeneration",
    "granite_speech_plus": "GraniteSpeechPlusForConditionalGeneration",
    "inkling_mm_model": "InklingForConditionalGeneration",
    "moss_transcribe_diarize": "MossTranscribeDiarizeForConditionalGeneration",
    "muse_spark": "MuseSparkForConditionalGeneration",
    "musicflamingo": "MusicFlamingoForConditionalGeneration",
    "nemo_speechlm": "Nemotron3_5TranscribeForConditionalGeneration",
    "nemotron_h_omni": "NemotronH_Omni_Reasoning_V3",
    "phi4_multimodal": "Phi4MultimodalForCausalLM",
    "qwen2_5_omni": "Qwen2_5OmniForConditionalGeneration",
    "qwen2_5_omni_thinker": "Qwen2_5OmniThinkerForConditionalGeneration",
    "qwen2_audio": "Qwen2AudioForConditionalGeneration",
    "qwen3_asr": "Qwen3ASRForConditionalGeneration",
    "qwen3_omni_moe": "Qwen3OmniMoeForConditionalGeneration",
    "qwen3_omni_moe_thinker": "Qwen3OmniMoeThinkerForConditionalGeneration",
    "vibevoice_asr": "VibeVoiceAsrForConditionalGeneration",
    "voxtral": "VoxtralForConditionalGeneration",
}

# Those that no test has tried: wrappers around a thinker that is one of the others, and speech that it makes.
UNTRIED = ("qwen2_5_omni", "qwen3_omni_moe")

# What a family's processor imports beside transformers (of Gemma 3n its vision tower does).
NEEDS = {
    "dots3_note": "torchvision",
    "fun_asr_nano": "torchaudio",
    "gemma3n": "timm",
    "gemma4": "torchvision",
    "gemma4_unified": "torchvision",
    "granite_speech": "torchaudio",
    "granite_speech_plus": "torchaudio",
    "inkling_mm_model": "torchvision",
    "muse_spark": "torchvision",
    "nemotron_h_omni": "torchvision",
    "phi4_multimodal": "torchvision",
    "qwen2_5_omni": "torchvision",
    "qwen2_5_omni_thinker": "torchvision",
    "qwen3_omni_moe": "torchvision",
    "qwen3_omni_moe_thinker": "torchvision",
    "voxtral": "mistral_common",
}

# Why the others cannot, and which they are.
REFUSED = {
    "adds audio to its text embeddings in place of giving it a slot": {
        "voxtral_realtime": "VoxtralRealtimeForConditionalGeneration",
    },
    "sums audio codes with each text embedding: no slot": {
        "kyutai_speech_to_text": "KyutaiSpeechToTextForConditionalGeneration",
        "moshi": "MoshiForConditionalGeneration",
    },
    "makes audio, not text": {
        "bark": "BarkModel",
        "clvp": "ClvpModelForConditionalGeneration",
        "csm": "CsmForConditionalGeneration",
        "dia": "DiaForConditionalGeneration",
        "gradium_phonon_tts": "GradiumPhononTTSForConditionalGeneration",
        "higgs_audio_v2": "HiggsAudioV2ForConditionalGeneration",
        "musicgen": "MusicgenForConditionalGeneration",
        "musicgen_melody": "MusicgenMelodyForConditionalGeneration",
        "pocket_tts": "PocketTTSForConditionalGeneration",
        "vibevoice": "VibeVoiceForConditionalGeneration",
    },
    "a codec: no text": {
        "dac": "DacModel",
        "encodec": "EncodecModel",
        "higgs_audio_v2_tokenizer": "HiggsAudioV2TokenizerModel",
        "mimi": "MimiModel",
        "neucodec": "NeuCodecModel",
        "pocket_tts_audio_tokenizer": "PocketTTSAudioTokenizerModel",
        "vibevoice_acoustic_tokenizer": "VibeVoiceAcousticTokenizerModel",
        "xcodec": "XcodecModel",
        "xcodec2": "Xcodec2Model",
    },
    "a vocoder: no text": {
        "fastspeech2_conformer_hifigan": "FastSpeech2ConformerHifiGan",
        "speecht5_hifigan": "SpeechT5HifiGan",
        "univnet": "UnivNetModel",
    },
    "an encoder-decoder: it attends to audio beside its text, and has no slot": {
        "canary": "CanaryForConditionalGeneration",
        "cohere_asr": "CohereAsrForConditionalGeneration",
        "moonshine": "MoonshineForConditionalGeneration",
        "moonshine_streaming": "MoonshineStreamingForConditionalGeneration",
        "pop2piano": "Pop2PianoForConditionalGeneration",
        "seamless_m4t": "SeamlessM4TForSpeechToText",
        "seamless_m4t_v2": "SeamlessM4Tv2ForSpeechToText",
        "speech-encoder-decoder": "SpeechEncoderDecoderModel",
        "speech_to_text": "Speech2TextForConditionalGeneration",
        "speecht5": "SpeechT5ForSpeechToText",
        "whisper": "WhisperForConditionalGeneration",
    },
    "CTC: an output for each frame, and no LLM": {
        "data2vec-audio": "Data2VecAudioForCTC",
        "granite_speech5_ctc": "GraniteSpeech5ForCTC",
        "hubert": "HubertForCTC",
        "lasr_ctc": "LasrForCTC",
        "parakeet_ctc": "ParakeetForCTC",
        "sew": "SEWForCTC",
        "sew-d": "SEWDForCTC",
        "unispeech": "UniSpeechForCTC",
        "unispeech-sat": "UniSpeechSatForCTC",
        "wav2vec2": "Wav2Vec2ForCTC",
        "wav2vec2-bert": "Wav2Vec2BertForCTC",
        "wav2vec2-conformer": "Wav2Vec2ConformerForCTC",
        "wavlm": "WavLMForCTC",
    },
    "a transducer: no LLM whose input has a slot": {
        "nemotron3_5_asr": "Nemotron3_5AsrForRNNT",
        "nemotron_asr_streaming": "NemotronAsrStreamingForRNNT",
        "parakeet_rnnt": "ParakeetForRNNT",
        "parakeet_tdt": "ParakeetForTDT",
    },
    "makes no text": {
        "audio-spectrogram-transformer": "ASTForAudioClassification",
        "embedding_gemma2": "EmbeddingGemma2Model",
        "perceiver": "PerceiverForMultimodalAutoencoding",
    },
    "says who speaks, not what": {
        "nemotron3_diarization": "Nemotron3DiarizationForAudioFrameClassification",
    },
    "compares audio with text, and writes none": {
        "clap": "ClapModel",
        "pe_audio": "PeAudioModel",
        "pe_audio_video": "PeAudioVideoModel",
    },
}
OURS = "adapt_composed"  # built with `adapt base`


@dataclass(frozen=True)
class Support:
    """A model type. why: the reason where it is not supported. tested: on tiny models of random weights of its class.

    needs: a package that its processor imports; empty for none.
    """

    model_type: str
    cls: str
    supported: bool
    why: str
    tested: bool
    needs: str


def table() -> list[Support]:
    """All of them, the supported ones first."""
    rows = [Support(OURS, "ComposedForSpeechRecognition", True, "", True, "")]
    rows += [Support(kind, cls, True, "", kind not in UNTRIED, NEEDS.get(kind, "")) for kind, cls in SUPPORTED.items()]
    others = {kind: (cls, why) for why, kinds in REFUSED.items() for kind, cls in kinds.items()}
    return rows + [Support(kind, cls, False, why, False, "") for kind, (cls, why) in sorted(others.items())]


def refusal(model_type: str) -> str | None:
    """Why a model that takes audio cannot be adapted; None where it is supported or takes none."""
    return next((why for why, kinds in REFUSED.items() if model_type in kinds), None)
