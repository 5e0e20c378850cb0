"""Text, manifests, lexicons, normalisers and prompt templates. No module of this package imports torch."""
