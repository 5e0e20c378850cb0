"""The command `adapt`: signatures and help. What a command does stands in the module that it calls."""

from adapt.cli import models, recipes, score, transcribe
from adapt.cli.group import main

# In the order of the work, which `adapt --help` keeps.
for command in (
    recipes.check,
    recipes.run,
    recipes.prompt,
    recipes.decoder,
    recipes.project,
    recipes.lm,
    recipes.tune,
    recipes.prompts,
    recipes.robustness,
    transcribe.transcribe,
    score.score,
    models.base,
    models.export,
    models.import_,
    models.ls,
):
    main.add_command(command)
