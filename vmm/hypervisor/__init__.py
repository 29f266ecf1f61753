"""Hypervisors: their interface, its drivers, and how one is chosen."""
