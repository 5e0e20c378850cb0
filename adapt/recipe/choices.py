"""Choices that a recipe key shares with an option of the command line or with a table of functions.

The module imports nothing, so that the command line can list the choices at once. Normalisers are in
`adapt.text.normalise.NORMALISERS`.
"""

DTYPES = ("auto", "fp32", "bf16", "fp16")
PRECISIONS = ("auto", "fp32", "bf16")
QUANTISE_BITS: dict[str, int | None] = {"none": None, "8-bit": 8, "4-bit": 4}
PROMPT_INITS = ("audio", "stats", "text", "random")
PROMPT_LENGTHS = (5, 10, 20, 50, 100)  # of which `prompt.length: auto` keeps one
PROJECT_METHODS = ("none", "tokens", "mlp", "residual")
PSEUDO_AUDIO = (
    "auto",
    "soft-prompt",
    "simulate",
    "soft-prompt+simulate",
    "mixed",
    "denoise",
    "upsample-mask",
    "generate",
    "speech",
    "empty",
    "none",
)
NAMES = ("none", "prompt", "boost", "both")
EXPLICIT = ("none", "letters", "ctc")
WINDOWS = ("recording", "full")
ENCODER_FROZEN = ("none", "first", "all")
PROJECTORS = ("linear", "mlp", "conv", "normalised", "first-pass")
UNITS = ("none", "letters", "pieces", "tokens", "mixed")
LORA_LAYERS = ("attention", "all")
DECODER_TRAINING = ("frozen", "lora", "full")
