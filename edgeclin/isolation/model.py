"""An engine's bytes in memory that processes share and none can change."""

from __future__ import annotations

import fcntl
import os

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class SharedModel:
    """A sealed memfd, which has no name in any file system and ends with its last process."""

    def __init__(self, model: bytes) -> None:
        self.fd = os.memfd_create("edgeclin-model", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(self.fd, "wb", closefd=False) as file:
                file.write(model)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the memory back, once no process reads it any more."""
        os.close(self.fd)


def read_model(fd: int) -> bytes:
    """The bytes of a `SharedModel`, in a process that inherited its descriptor, which is closed."""
    os.lseek(fd, 0, os.SEEK_SET)
    with open(fd, "rb") as file:
        return file.read()
