"""Training: the two stages of adaptation, and the base model's own stages."""
