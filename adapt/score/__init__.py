"""Scores: WER and entity errors with intervals, significance and a report; nothing here imports torch."""
