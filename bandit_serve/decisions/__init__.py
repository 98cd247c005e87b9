"""Path of a request: parse, decide, score, respond. Nothing on it waits for the store."""
