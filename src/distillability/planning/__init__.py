"""What a run needs, by arithmetic alone: shapes of models, operations, bytes, hardware. No torch, but to measure a machine."""
