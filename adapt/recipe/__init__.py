"""Recipes: YAML files in, dataclasses out."""
