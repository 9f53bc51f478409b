"""De-identifying one video: survey, cover, embed, verify, audit, publish."""
