"""A world of coloured shapes: the embedded default, with its model, data and rewards."""
