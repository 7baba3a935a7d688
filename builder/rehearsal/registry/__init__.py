"""An OCI registry server with the rules of ECR."""
