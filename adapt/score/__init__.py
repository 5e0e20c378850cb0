"""Scores: WER and entity errors with intervals, significance and a report. No module of this package imports torch."""
