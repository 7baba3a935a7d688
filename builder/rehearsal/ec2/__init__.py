"""EC2 and Systems Manager as the rehearsal serves them."""
