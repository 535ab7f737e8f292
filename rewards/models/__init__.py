"""Rewards that run a model, and the code that loads the weights."""
