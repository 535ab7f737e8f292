"""Finding, checking and loading Janus checkpoints: two formats, the tokenizer, the Hub."""
