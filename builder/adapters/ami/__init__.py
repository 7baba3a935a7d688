"""Make, check, publish and remove AMIs in one AWS account."""
