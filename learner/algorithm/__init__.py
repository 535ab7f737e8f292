"""The mathematics of the update, in pure torch and NumPy."""
