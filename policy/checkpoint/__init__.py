"""Folders that hold a Janus model: formats, tokenizer, the Hub."""
