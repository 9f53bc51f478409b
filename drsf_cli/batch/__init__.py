"""Many videos: inputs, jobs, resuming, shards, and where the work runs."""
