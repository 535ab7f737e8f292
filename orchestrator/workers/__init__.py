"""Everything that runs in other processes: the only room that imports Ray."""
