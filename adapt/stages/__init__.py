"""The stages of `adapt run`, one file each, over a run folder."""
