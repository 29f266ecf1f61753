"""The calls that a fleet offers to owners, in groups. Each call names the owner, and only `ownership` checks it."""
