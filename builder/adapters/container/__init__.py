"""Find and build the layers of container images."""
