"""A fake of pycuda: see fake_nvidia/README.md."""
