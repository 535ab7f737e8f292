"""The ground floor: what a prompt, a trajectory and a Janus policy are."""
