"""The order of the algorithm: from prompts to new weights, step by step."""
