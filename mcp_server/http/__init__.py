"""What every HTTP request passes, whatever it asks for: guards, ids, logs, error bodies, sessions."""
