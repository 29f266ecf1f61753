"""Hypervisors: the port, its drivers, and how one is chosen."""
