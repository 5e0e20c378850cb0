"""External language models and lists of phrases, as tensors for beam search."""
