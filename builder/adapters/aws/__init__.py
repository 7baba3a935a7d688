"""Access to AWS accounts; the only package that imports boto3."""
