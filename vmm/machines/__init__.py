"""Virtual machines: one of them, those that run on this host, and the checkpoints that new ones are made from."""
