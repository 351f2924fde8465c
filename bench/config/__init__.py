"""Recipes: their keys (schema), how files become recipes (parse, registry, compose), and what is refused (checks)."""
