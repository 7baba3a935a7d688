"""Apply the roles of a plan to a machine or a container."""
