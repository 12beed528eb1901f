"""A fake of cuda-python before 12.6, which has no `cuda.bindings`."""
