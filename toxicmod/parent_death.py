"""`python toxicmod/parent_death.py COMMAND`: run a command that ends when its parent ends.

`manage.py serve` starts its programs with it: when supervisord is killed, none of them is left behind.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # Linux, see prctl(2)


def end_with_parent() -> None:
    """Have Linux send SIGTERM to this process when its parent ends. On other systems, do nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    end_with_parent()
    os.execvp(sys.argv[1], sys.argv[1:])
