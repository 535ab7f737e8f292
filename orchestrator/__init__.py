"""The top floor: the only room that knows all others."""
