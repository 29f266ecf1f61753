"""Everything that changes a sandbox: create, sleep, wake, restore, fork, delete; and what may happen when."""
