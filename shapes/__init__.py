"""The embedded default: a world of coloured shapes with a tiny model, prompts and rewards."""
