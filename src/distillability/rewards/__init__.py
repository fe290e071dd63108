"""Rewards: pure tensors in and out, missing propagates."""
