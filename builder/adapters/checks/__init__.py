"""Run the check files of roles against a container or a machine and read the results."""
