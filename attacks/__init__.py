"""Obscuring, the perturbation and its step rules, repelling, and the codec in the loop."""
