"""Published ports: what listens inside a sandbox, opened from outside over HTTP, WebSockets or raw TCP."""
