"""Run the check files of roles against a machine and read their outcome."""
