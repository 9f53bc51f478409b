"""The commands of `drsf`: each parses, calls and prints."""
