"""Log-likelihood of texts."""
