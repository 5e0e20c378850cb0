"""The speech LLM: built from parts, its soft prompt, and its adapters on disk."""
