"""External language models and phrase lists, as tensors that a beam search reads."""
