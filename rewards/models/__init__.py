"""Rewards that are models, and how their weights are loaded."""
