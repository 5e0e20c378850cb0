"""Training: the stages of adaptation, and the stages that build a base."""
