"""What a runner starts instead of the node itself: ties the process's life to the runner's, then becomes the node.

A child must not outlive its runner, even one killed with SIGKILL; a node survives a kill at any instant, so it is
killed too (a paused process would not notice anything gentler).

Run as `python -m node.cluster.child <runner's process id> <command...>`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def tie_to_parent(parent_pid: int) -> None:
    """Die when the parent does. Ends the process at once if it is gone already. Does nothing beyond that off Linux."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent_pid:
        os._exit(1)


if __name__ == "__main__":
    tie_to_parent(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])  # the death signal survives exec  # noqa: S606
