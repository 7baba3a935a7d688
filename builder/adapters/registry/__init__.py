"""Push images to OCI registries and share layers through them."""
