"""A machine with the least around it, to measure the fleet against: no checks, no identity, one connection."""
