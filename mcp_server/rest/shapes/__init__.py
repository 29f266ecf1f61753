"""Types of the JSON objects in answers."""
