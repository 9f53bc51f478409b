"""Training of the drawer; not part of the wheel."""
