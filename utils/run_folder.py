"""The folder of a run, and the lock that lets one run at a time into it."""

import fcntl
import os
import socket
import time
from pathlib import Path

from utils.errors import UsageError


class RunFolder:
    """A folder locked for this process until it ends, however it ends. Only the first rank has one."""

    def __init__(self, path: Path):
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self.lock = (path / ".lock").open("a+")
        except OSError as error:
            raise UsageError(f"--output-dir {path} cannot be written: {error.strerror}; choose another one") from error
        self._take_lock()

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.lock.seek(0)
            holder = self.lock.read().strip() or "another process"
            raise UsageError(f"--output-dir {self.path} is in use by {holder}; choose another one") from error
        self.lock.truncate(0)
        self.lock.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        self.lock.flush()

    def refuse_if_used(self) -> None:
        """UsageError if a run has left checkpoints here and this one was not asked to go on from them."""
        if any(self.path.glob("step_*.pth")):
            raise UsageError(
                f"--output-dir {self.path} holds the checkpoints of a run; add --resume auto to go on with it, "
                "or choose another folder"
            )
