"""The flags of the commands, by what a command works on."""
