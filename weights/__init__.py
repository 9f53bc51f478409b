"""The catalogue of weight files, how they are fetched and checked, and the errors that users see."""
