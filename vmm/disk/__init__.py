"""Files on the host's disk: sparse copies, digests, records that are read back, and what the kernel says of them."""
