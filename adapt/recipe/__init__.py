"""Recipes: from YAML files to dataclasses and back."""
