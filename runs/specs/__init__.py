"""Spec files: parsed with the position of every value, checked as a whole, and turned into models."""
