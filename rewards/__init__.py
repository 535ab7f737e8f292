"""Rewards: anything that turns images and prompts into scores or failures."""
