"""Text, manifests, lexicons and normalisers; nothing here imports torch."""
