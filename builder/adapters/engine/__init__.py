"""Client of a Docker engine."""
