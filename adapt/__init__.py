"""Text-only domain adaptation for LLM-based speech recognition."""
