"""Computes a score from detected boxes. Nothing here runs a model."""
