"""Evaluation on fixed prompts: mean rewards with standard errors, public files, leaked prompts."""
