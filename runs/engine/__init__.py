"""Work in machines: what runs when, and how it ended. Machines are reached through a port."""
