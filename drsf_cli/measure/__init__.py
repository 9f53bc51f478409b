"""What is measured: errors between two readings, what others can read, what is left of an identity."""
