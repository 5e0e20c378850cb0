"""`adapt base`: build a speech LLM from parts."""
