"""Suites of evaluation: their prompts, their protocol and the arithmetic of their tables."""
