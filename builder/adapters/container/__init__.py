"""Find and make the layers of container images."""
