"""Path of a reward: parse, verify, append. The tail of the log applies it, as it applies every entry."""
