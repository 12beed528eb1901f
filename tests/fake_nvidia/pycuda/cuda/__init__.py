"""Hides a cuda-python that is installed: where pycuda is used there is none."""

raise ImportError("No module named 'cuda'")
