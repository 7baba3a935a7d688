"""Access to everything outside this process, with one package per external system."""
