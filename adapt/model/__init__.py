"""The speech LLM: its parts, its prompt, its soft prompt, and its adapters on disk."""
