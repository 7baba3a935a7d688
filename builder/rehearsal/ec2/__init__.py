"""EC2 and Systems Manager of the rehearsed AWS account."""
