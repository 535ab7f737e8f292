"""Starts other processes and waits for them: the only room of orchestrator/ that imports Ray."""
