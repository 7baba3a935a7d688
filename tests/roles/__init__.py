"""Role tests: the play, variables and checks of a build on a machine in a container, without layers."""
