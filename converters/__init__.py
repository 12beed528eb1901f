"""Converters, named for what they make and from what; found by entry points, never imported."""
