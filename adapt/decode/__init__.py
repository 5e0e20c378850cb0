"""Decoding: real audio in the slot, transcripts out."""
