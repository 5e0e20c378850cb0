"""N-gram language models and lists of phrases to boost, as tensors for beam search."""
