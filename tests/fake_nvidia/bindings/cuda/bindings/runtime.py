"""A fake of the module's new name."""

from fake_cuda_python import *  # noqa: F403
