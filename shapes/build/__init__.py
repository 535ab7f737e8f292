"""Builds what the shapes world ships: the prompt files and the pretrained checkpoint."""
