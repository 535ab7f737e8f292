"""Scorers of published benchmarks: rewards that follow a benchmark's own rules to the digit."""
