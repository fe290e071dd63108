"""Pure torch: divergences, the shift, the division, chosen log-probabilities, statistics."""
