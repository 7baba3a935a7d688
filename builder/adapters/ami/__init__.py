"""Create, check, publish and delete AMIs in one AWS account."""
