"""The memory of this process: the most that it has held, and keeping what it has freed."""

import ctypes
import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak() -> int:
    """Bytes that this process has held at most, in memory.

    Linux has it in /proc. What `getrusage` says there begins with what the parent process held when it started this one; it is
    asked where there is no /proc.
    """
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt: M_TRIM_THRESHOLD and M_MMAP_MAX in malloc.h."""


def keep_freed() -> None:
    """From here on this process keeps memory that it frees, for what it allocates next.

    glibc hands a large block back to the kernel when it is freed, which then clears and maps every page of the next one. A
    training on a CPU frees in each step what the next step asks for again. At the published batch of 8 (256 pixels, two threads) a
    step of DoveNet and of S2AM takes 0.8 of the time once memory is kept, at a batch of 2 nearly the same. The peak may grow where
    blocks of many sizes take turns: S2AM's from 2.6 to 3.9 GB, DoveNet's from 3.8 to 4.2. A thread beside the main
    one, such as those that Ray trains in, keeps blocks of up to 64 MiB. Nothing is done where the C library has no mallopt
    (musl, macOS).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
