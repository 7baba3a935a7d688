"""One module per outside tool; nothing here reads the catalog or decides what to build."""
