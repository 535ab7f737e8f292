"""One command a file: parse what it was given, call, print."""
