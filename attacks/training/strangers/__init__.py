"""Models of other families that a drawer is trained to be unreadable for; not part of the wheel."""
