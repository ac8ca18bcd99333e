"""Unmaps Numba's compiler from processes that have loaded their compiled code."""

import ctypes
import sys
from pathlib import Path

MADV_DONTNEED = 4  # Linux, see madvise(2)
LIBRARY = "libllvmlite.so"


def release_compiler() -> None:
    """Unmap the code of LLVM, nearly 100 MB. Linux maps a page again when it is used.

    Numba needs LLVM to compile a function or to load it from the cache, and not to call it. On other systems,
    do nothing.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    for mapping in Path("/proc/self/maps").read_text().splitlines():
        addresses, access, *_ = mapping.split()
        if access == "r-xp" and mapping.endswith(LIBRARY):
            begin, end = (int(address, 16) for address in addresses.split("-"))
            libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), MADV_DONTNEED)
