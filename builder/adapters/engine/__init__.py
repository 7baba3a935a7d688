"""Talk to a Docker engine."""
