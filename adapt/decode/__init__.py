"""Decoding: from recordings to transcripts."""
