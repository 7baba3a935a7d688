"""Access to package archives, Python indexes and vendors: resolve, verify, download."""
