"""The commands, one file each. A command calls the code that does the work and prints results."""
