"""Clock of a training. Nothing that it measures changes a result."""

import sys
import time

import torch
from tqdm import tqdm


class Meter:
    """Images per second, the share of time spent waiting for data, and the time left. Shows a bar on a terminal."""

    def __init__(self, name: str, steps: int, batch_size: int, shown: bool):
        self.name, self.batch_size = name, batch_size
        self.began = self.last_saved = self.epoch_began = time.monotonic()
        self.steps = self.epoch_steps = 0
        self.wait = self.epoch_wait = 0.0
        self.bar = (
            tqdm(total=steps, desc=name, unit=" steps", file=sys.stderr) if shown and sys.stderr.isatty() else None
        )

    def waiting(self) -> None:
        self.asked = time.monotonic()

    def arrived(self) -> None:
        self.wait += time.monotonic() - self.asked
        self.epoch_wait += time.monotonic() - self.asked

    def stepped(self) -> float:
        """Count a step; returns the seconds since the last checkpoint."""
        self.steps += 1
        self.epoch_steps += 1
        if self.bar is not None:
            self.bar.update()
        return time.monotonic() - self.last_saved

    def saved(self) -> None:
        self.last_saved = time.monotonic()

    def line(self, row: dict, epochs: int, steps_left: int) -> str:
        now = time.monotonic()
        seconds = max(now - self.epoch_began, 1e-9)
        rate = self.epoch_steps / seconds
        parts = " ".join(
            f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float) and key != "learning_rate"
        )
        text = (
            f"{self.name} {row['phase']} epoch {row['epoch']}/{epochs} step {row['step']}: {parts} | "
            f"{rate * self.batch_size:.1f} images/s, {self.epoch_wait / seconds:.1%} of the time waiting for data, {steps_left / max(rate, 1e-9):.0f} s left"
        )
        self.epoch_began, self.epoch_steps, self.epoch_wait = now, 0, 0.0
        return text

    def summary(self, device: torch.device, world: int) -> dict:
        if self.bar is not None:
            self.bar.close()
        seconds = time.monotonic() - self.began
        return {
            "device": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"CPU, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}",
            "workers": world,
            "steps_of_the_last_run": self.steps,
            "seconds_of_the_last_run": round(seconds, 1),
            "images_per_second": round(self.steps * self.batch_size / max(seconds, 1e-9), 2),
            "share_of_time_waiting_for_data": round(self.wait / max(seconds, 1e-9), 4),
            "peak_gpu_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        }
