"""Virtual machines: single ones, all that run on this host, and the checkpoints that new ones are made from."""
