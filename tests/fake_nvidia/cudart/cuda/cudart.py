"""A fake of the module's old name."""

from fake_cuda_python import *  # noqa: F403
