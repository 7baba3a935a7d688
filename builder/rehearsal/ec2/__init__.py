"""The rehearsal's EC2 and Systems Manager."""
