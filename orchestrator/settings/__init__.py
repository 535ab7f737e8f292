"""What a run is asked for, and whether it can be had. Nothing here knows Ray."""
