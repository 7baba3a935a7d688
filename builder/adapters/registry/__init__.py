"""Push images to OCI registries and share cached layers through them."""
