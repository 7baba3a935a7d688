"""Find the newest versions that satisfy the rules for a machine."""
