"""The settings of a run, and the checks that the run can start with them. Nothing imports Ray."""
