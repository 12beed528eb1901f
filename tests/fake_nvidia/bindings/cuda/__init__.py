"""A fake of cuda-python since 12.6: see fake_nvidia/README.md."""
