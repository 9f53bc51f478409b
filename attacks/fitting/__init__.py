"""Fitting a drawer to a chain of victims: `drsf weights fit`, and the training of the drawers that are bundled."""
