"""Evaluation on fixed prompts: what the numbers mean and how sure they are."""
