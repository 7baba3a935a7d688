"""Stand-ins for the services that a build meets in production, on loopback and in process."""
