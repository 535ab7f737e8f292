"""The learner: from scored trajectories to an update of the language model."""
