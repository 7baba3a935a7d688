"""Talk to one AWS account; the only package that imports boto3."""
