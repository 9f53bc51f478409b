"""The two networks of our own, and how private weights are made of them."""
