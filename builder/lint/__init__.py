"""Static rules for Dockerfiles, batch scripts, manifests and the files beside them."""
