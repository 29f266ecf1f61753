"""What a fleet offers to owners, in groups. Each call names the owner, and `ownership` alone checks it."""
