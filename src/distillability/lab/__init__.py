"""The embedded lab: very small models, and how they are built."""
