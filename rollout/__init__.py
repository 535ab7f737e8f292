"""Rollout: sampling groups of trajectories from a policy at a weight version."""
