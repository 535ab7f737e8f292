"""Real models of a few thousand random parameters, for tests and for dry runs of benchmarks."""
