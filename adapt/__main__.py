"""`python -m adapt` is the command `adapt`."""

from adapt.cli import main

main()
