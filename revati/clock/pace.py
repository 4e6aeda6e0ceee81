"""The host factor while a run goes on: this machine's pace against the reference machine's, again and again.

A shared machine is not equally fast all the time: neighbours on the same core or cache make one processor two
times slower for seconds. What is charged for host work must not depend on that. So short passes of the
calibration workload run beside the run, outside of its virtual time, and the factor follows them.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from itertools import cycle
from statistics import fmean, median

from revati.clock import calibrate

_SHORT_STEPS = 12
_PAIRS = 8
_KEPT = 3
_PERIOD_S = 0.25
_MOST_PROCESSORS = 8


def _short_s() -> float:
    return min(calibrate.timed_work_s(_SHORT_STEPS) for _ in range(2))  # the first of two runs on cold caches


class Pace:
    """Compares this machine with `reference`; about half a second of work when it is made.

    reference_s: what a short pass takes on the reference machine. Full and short passes are measured in
    pairs, so that their ratio holds whatever else the machine does meanwhile. Each processor has its own pace
    (virtual ones do not share the same neighbours); of more than eight, eight stand for all.
    """

    def __init__(self, reference: calibrate.Calibration = calibrate.REFERENCE) -> None:
        pairs = [(_short_s(), calibrate.timed_work_s()) for _ in range(_PAIRS)]
        self.reference_s = reference.work_s * median(short / full for short, full in pairs)
        processors = sorted(os.sched_getaffinity(0))
        step = -(-len(processors) // _MOST_PROCESSORS)
        groups = [processors[i : i + step] for i in range(0, len(processors), step)]
        first = median(short for short, _ in pairs)
        self._last = [deque([first], maxlen=_KEPT) for _ in groups]
        self._turn = cycle(zip(groups, self._last, strict=True))

    @property
    def factor(self) -> float:
        """Host CPU time on the reference machine over that on this one, now: mean over the processors."""
        return fmean(self.reference_s / median(times) for times in self._last)

    def look(self) -> tuple[list[int], float]:
        """Measure once more, on the next processor: (processors, their factor now).

        Binds the calling thread to that processor, and takes 5 to 10 ms of it.
        """
        processors, times = next(self._turn)
        os.sched_setaffinity(0, {processors[0]})
        times.append(_short_s())
        return processors, self.reference_s / median(times)


class PaceTeller:
    """Tells a timekeeper further factors through a pipe (`--pace-fd`), from a thread of its own."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self.read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="revati-pace", daemon=True)

    def start(self) -> None:
        """Begin; the timekeeper has the reading end by now."""
        os.close(self.read_fd)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the pipe."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        else:
            os.close(self.read_fd)
        os.close(self._write_fd)

    def _tell(self) -> None:
        while not self._over.wait(_PERIOD_S):
            try:
                processors, factor = self._pace.look()
                lines = "".join(f"{cpu} {factor:.6f}\n" for cpu in processors)
                os.write(self._write_fd, lines.encode())
            except OSError:  # nobody reads any more, or the processor was taken away
                return
