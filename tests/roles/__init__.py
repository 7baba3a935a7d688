"""Role tests: run the play and checks of a build, with its variables, on a machine in a container."""
