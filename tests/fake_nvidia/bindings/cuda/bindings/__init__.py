"""A fake."""
