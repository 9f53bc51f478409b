"""How the compact networks were trained and measured; not installed."""
