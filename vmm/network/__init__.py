"""What a sandbox may reach, and how it gets there. Nothing here knows machines, calls or surfaces."""
