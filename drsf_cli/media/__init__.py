"""Files in and out: video, sound, pictures, and outputs that appear whole or not at all."""
