"""Terminal screens: what a program wrote, drawn as a person would see it."""
