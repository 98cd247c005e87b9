"""The way of a reward: parse, verify, append. It is applied where everything is: by the tail of the log."""
