"""The learner updates the language model from trajectories and their advantages."""
