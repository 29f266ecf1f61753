"""Files on the host's disk: sparse copies, digests, record files, and errors of the kernel."""
