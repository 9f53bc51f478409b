"""The report of a run: its JSON, its page, its charts, and drawings on frames."""
