"""Volumes: disks of an owner that live apart from sandboxes."""
