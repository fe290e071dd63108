"""From evaluation files to the rows of `results.json`."""
