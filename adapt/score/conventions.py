"""The conventions of aligning and counting. The module imports nothing, so that the command line lists them at once."""

# adapt: fewest edits (`wer.align_all`); insertions within an entity are errors on biased words (`entity_errors`).
# is21: weights and counting of fbai-speech's is21_deep_bias (`wer.align_is21`, `entity.rare_word_errors`).
CONVENTIONS = ("adapt", "is21")
