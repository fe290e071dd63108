"""Recipes: their model, their loading, their documentation. Nothing heavy is imported here."""
