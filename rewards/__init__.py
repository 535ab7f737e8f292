"""Rewards: classes that turn images and prompts into scores or failures."""
