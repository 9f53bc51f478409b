"""Measurements: errors between two readings, what other models can read, and how far a person can be recognised."""
