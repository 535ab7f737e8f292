"""Methods that decide how much each token learns from the reward of its trajectory."""
