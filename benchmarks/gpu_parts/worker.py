"""A process that takes turns, one after the other, and can be ended in the midst of one.

Compiling can't be interrupted, a GPU that met an error in a kernel refuses whatever its process asks from then on, and a library
may crash. So what measures is a process beside the one that keeps time and results; after such an end another takes its place.

    python -m benchmarks.gpu_parts.worker     # requests as lines of JSON on stdin, messages as lines of JSON on stdout
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


COMMAND = [sys.executable, "-m", "benchmarks.gpu_parts.worker"]


class Ended(Exception):
    """The process didn't finish a turn. Its text says why, in a few words."""


class Worker:
    """The process, seen from the one that keeps time.

    log: file for what libraries say on stderr. scratch: folder for what torch.compile keeps, which is empty at first, so that
    every compilation begins anew.
    """

    def __init__(self, log: Path, scratch: Path):
        self.log, self.scratch = log, scratch
        self.process: subprocess.Popen | None = None

    def _start(self) -> None:
        caches = {
            "TORCHINDUCTOR_CACHE_DIR": str(self.scratch / "inductor"),
            "TRITON_CACHE_DIR": str(self.scratch / "triton"),
        }
        search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | caches | {"PYTHONPATH": search},
                start_new_session=True,  # Ctrl-C is for the process that keeps the results; and all that it starts can be ended with it
            )
        self.messages: queue.Queue[dict | None] = queue.Queue()
        threading.Thread(target=self._listen, args=(self.process.stdout, self.messages), daemon=True).start()

    @staticmethod
    def _listen(stream, messages: "queue.Queue[dict | None]") -> None:
        for line in stream:
            with contextlib.suppress(ValueError):  # a last line that it was killed in the midst of
                messages.put(json.loads(line))
        messages.put(None)

    def ask(self, request: dict, seconds: float) -> Iterator[dict]:
        """Messages about a request, as they come. Raises Ended when `seconds` are over, or when the process ends before; the
        next request then gets a new one."""
        if self.process is None:
            self._start()
        assert self.process is not None and self.process.stdin is not None
        deadline, done = time.monotonic() + seconds, None
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended, which is seen below
                self.process.stdin.write(json.dumps(request) + "\n")
                self.process.stdin.flush()
            while done is None:
                try:
                    message = self.messages.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    raise Ended(f"ended after {seconds:.0f} s") from None
                if message is None:
                    raise Ended(self._last_words())
                done = message.get("done")
                if done is None:
                    yield message
        finally:
            # whatever else ended this, the process would go on with a turn that nobody waits for
            if done != "well":
                self.end()

    def _last_words(self) -> str:
        assert self.process is not None
        code = self.process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"its process was {how}" + (f" ({lines[-1].strip()[:200]})" if lines else "")

    def end(self) -> None:
        """End the process and all that it has started."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None


def main() -> None:
    messages = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no message

    def say(message: dict) -> None:
        print(json.dumps(message), file=messages, flush=True)

    from benchmarks.gpu_parts import measures

    for line in sys.stdin:
        request = json.loads(line)
        fit = True
        if request["part"] == "machine":
            say({"machine": measures.machine(request["device"])})
        else:
            fit = measures.measure(request, say)
        say({"done": "well" if fit else "unfit for more"})


if __name__ == "__main__":
    main()
