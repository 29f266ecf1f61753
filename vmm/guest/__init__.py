"""The host's end of the guest link, and the values that it sends and receives."""
