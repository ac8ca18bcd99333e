"""`python toxicmod/parent_death.py COMMAND`: run a command that is terminated when its parent process ends.

`manage.py serve` starts its programs with it, so that all of them end even if supervisord is killed.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # Linux, see prctl(2)


def end_with_parent() -> None:
    """Let Linux send SIGTERM to this process when its parent ends. On other systems, do nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    end_with_parent()
    os.execvp(sys.argv[1], sys.argv[1:])
