"""Recipes: what to train, export and measure, as validated data."""
