"""Reading a run folder: pages, charts and comparisons."""
