"""Pure torch: divergences, projection and loss in chunks, the shift, the division, chosen log-probabilities, statistics."""
