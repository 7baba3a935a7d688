"""Local stand-ins, on loopback, for the AWS services that a build uses in production."""
