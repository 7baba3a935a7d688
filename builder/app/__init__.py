"""Run what a command asks for: the session, its context and the two lanes."""
