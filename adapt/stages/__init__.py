"""The stages of `adapt run`, one module each."""
