"""A clock for tests that moves a server's time: a preloaded library adds the seconds in a file to real time.

Monotonic clocks, and waiting by them, do not change.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

HAS_COMPILER = shutil.which("gcc") is not None
_LIBRARY = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
static int (*real)(clockid_t, struct timespec *);
static volatile long *step;
__attribute__((constructor)) static void begin(void) {
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("CLOCK_STEP");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped = file < 0 ? MAP_FAILED : mmap(0, sizeof *step, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) step = mapped;
}
int clock_gettime(clockid_t id, struct timespec *at) {
    int result = real ? real(id, at) : -1;
    if (step && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += *step;
    return result;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now = {0};
    int result = clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return result;
}
time_t time(time_t *at) {
    struct timespec now = {0};
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
/* The deadline was computed with the moved clock, the kernel waits by the real one. */
int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict deadline) {
    int (*wait)(sem_t *, const struct timespec *) =
        (int (*)(sem_t *, const struct timespec *))dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec at = *deadline;
    if (step) at.tv_sec -= *step;
    return wait(semaphore, &at);
}
"""


class Clock:
    """The time of every process that is started with `environment`."""

    def __init__(self, folder: Path) -> None:
        """Compile the library into the folder.

        Raises:
            subprocess.CalledProcessError: gcc fails.
        """
        source, library, self._step = folder / "clock.c", folder / "clock.so", folder / "step"
        source.write_text(_LIBRARY)
        subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_STEP": str(self._step)}
        self._step.write_bytes(bytes(8))
        self._seconds = 0

    def set(self, seconds: int) -> None:
        """Set the difference to real time in seconds; negative values are in the past."""
        self._seconds = seconds
        with self._step.open("r+b", buffering=0) as file:
            file.write(seconds.to_bytes(8, "little", signed=True))

    def forward(self, by: timedelta) -> None:
        """Move the clock forward."""
        self.set(self._seconds + round(by.total_seconds()))

    def time(self) -> float:
        """Return the seconds since 1970 by this clock."""
        return time.time() + self._seconds

    def now(self) -> datetime:
        """Return the date and time by this clock."""
        return datetime.fromtimestamp(self.time(), UTC)


@contextmanager
def environ(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
