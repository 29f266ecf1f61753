"""All that changes a sandbox: creating, sleeping, waking, restoring, forking, deleting; and who may do so when."""
