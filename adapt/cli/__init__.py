"""The command `adapt`: options and help of its commands, whose work is done by the modules that they call."""

from adapt.cli import models, recipes, score, terms, transcribe
from adapt.cli.group import main

# `adapt --help` lists the commands in this order.
for command in (
    recipes.check,
    recipes.run,
    recipes.prompt,
    recipes.inspect,
    recipes.decoder,
    recipes.project,
    recipes.lm,
    recipes.tune,
    recipes.prompts,
    recipes.compare,
    recipes.robustness,
    transcribe.transcribe,
    score.score,
    terms.terms,
    models.base,
    models.export,
    models.import_,
    models.ls,
):
    main.add_command(command)
