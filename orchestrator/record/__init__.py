"""What a run writes down, and the folder it writes to."""
