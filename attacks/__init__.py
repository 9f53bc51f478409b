"""Obscuring, the drawer and its fit to a clip, steps of correction, repelling, and the codec in the loop."""
