"""Fitting a drawer to a chain of victims from many people: `drsf weights fit`, and the training of those bundled.

How a drawer is then fitted to a clip is in attacks/tuning.py.
"""
