"""Progress with rate and time left: a bar on a terminal, a line now and then in a log; nothing with -q."""

import sys
import time

from tqdm import tqdm

from pipeline import logs

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts `total` items; use as a context manager and call `add()`. Writes to stderr."""

    def __init__(self, describe: str, total: int, unit: str = "images"):
        self.describe, self.total, self.unit = describe, total, unit
        self.done = 0
        on_terminal = sys.stderr.isatty() and not logs.quiet()
        self.bar = tqdm(total=total, desc=describe, unit=f" {unit}", file=sys.stderr) if on_terminal else None
        self.started = self.spoken = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *failure) -> None:
        if self.bar is not None:
            self.bar.close()
        elif failure[0] is None:
            self._say()

    def add(self, count: int = 1) -> None:
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif time.monotonic() - self.spoken > SECONDS_BETWEEN_LINES:
            self._say()

    def reach(self, done: int, total: int) -> None:
        """The same for work that does its own counting and knows the total only when it has begun."""
        self.total = total
        if self.bar is not None:
            self.bar.total = total
        self.add(done - self.done)

    def _say(self) -> None:
        self.spoken = time.monotonic()
        if logs.quiet():
            return
        rate = self.done / max(self.spoken - self.started, 1e-9)
        left = (self.total - self.done) / rate if rate else float("inf")
        ends = f", {left:.0f} s left" if self.done < self.total else f" in {self.spoken - self.started:.1f} s"
        print(f"{self.describe}: {self.done}/{self.total} {self.unit}, {rate:.1f}/s{ends}", file=sys.stderr, flush=True)
