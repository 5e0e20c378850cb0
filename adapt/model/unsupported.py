"""Model types of transformers that take or generate audio and cannot be a base: reason -> model type -> class."""

from __future__ import annotations

UNSUPPORTED = {
    "adds audio to its text embeddings: no slot": {
        "voxtral_realtime": "VoxtralRealtimeForConditionalGeneration",
    },
    "adds audio codes to each text embedding: no slot": {
        "kyutai_speech_to_text": "KyutaiSpeechToTextForConditionalGeneration",
        "moshi": "MoshiForConditionalGeneration",
    },
    "generates audio, not text": {
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
    "audio codec: generates no text": {
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
    "vocoder: generates no text": {
        "fastspeech2_conformer_hifigan": "FastSpeech2ConformerHifiGan",
        "speecht5_hifigan": "SpeechT5HifiGan",
        "univnet": "UnivNetModel",
    },
    "encoder-decoder: attends to the audio by cross-attention, no slot": {
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
    "CTC: one output a frame, no LLM": {
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
    "transducer: no LLM whose input has a slot": {
        "nemotron3_5_asr": "Nemotron3_5AsrForRNNT",
        "nemotron_asr_streaming": "NemotronAsrStreamingForRNNT",
        "parakeet_rnnt": "ParakeetForRNNT",
        "parakeet_tdt": "ParakeetForTDT",
    },
    "generates no text": {
        "audio-spectrogram-transformer": "ASTForAudioClassification",
        "embedding_gemma2": "EmbeddingGemma2Model",
        "perceiver": "PerceiverForMultimodalAutoencoding",
    },
    "recognises who speaks, not what": {
        "nemotron3_diarization": "Nemotron3DiarizationForAudioFrameClassification",
    },
    "compares audio with text and generates none": {
        "clap": "ClapModel",
        "pe_audio": "PeAudioModel",
        "pe_audio_video": "PeAudioVideoModel",
    },
}
