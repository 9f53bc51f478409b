"""Every model that may read a video, and what reads with it."""
