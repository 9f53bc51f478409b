"""How much memory this process has had, and what goes back to the system before it ends."""

from __future__ import annotations

import contextlib
import ctypes
import sys


def peak_memory_mb() -> float:
    """Most memory this process has had in use, MB."""
    import resource  # which Windows lacks, and commands that do not ask for this need not have

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024.0 * 1024.0 if sys.platform == "darwin" else 1024.0)


def give_back_memory() -> None:
    """Give the system what the allocator holds of memory that is free (malloc_trim(3)), where it is glibc's.

    What is kept of each frame lies among what pictures took, so that the heap grows faster than what is in it.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
