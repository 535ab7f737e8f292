"""What all other packages share: prompts, trajectories, the Janus policy and its checkpoints."""
