"""Peak memory of D-HT's training step at published size on a CPU, in a process of its own.

    python -m benchmarks.dht [--size 256] [--batch 4] [--form dht] [--threads 2]

Attention at 256 pixels is between 4,096 tokens, in 18 layers. The number that counts is the peak resident memory of a
step with Adam at batch 4: below 8 GiB, because no attention map is kept. The process starts at what Python and torch
take, about 0.3 GiB, which is part of the peak.
"""

import argparse
import subprocess
import sys
import time

TARGET_GIB = 8.0


def step(size: int, batch: int, form: str, threads: int) -> None:
    import torch

    import models
    from benchmarks.subject import pictures
    from pipeline.running import memory

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = models.create("dht", form=form)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.5, 0.999))
    start = time.perf_counter()
    loss, _ = model.loss("network", pictures(batch, size, "cpu"))
    loss.backward()
    optimizer.step()
    taken = time.perf_counter() - start
    peak = memory.peak() / 2**30
    verdict = "met" if peak < TARGET_GIB else "missed"
    print(f"{form}, {batch} x {size} px: peak {peak:.2f} GiB, step {taken:.1f} s; below {TARGET_GIB:g} GiB: {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of the pictures")
    parser.add_argument("--batch", type=int, default=4, help="images per step")
    parser.add_argument("--form", choices=("dht", "ht"), default="dht")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    arguments = f"{given.size}, {given.batch}, {given.form!r}, {given.threads}"
    code = f"from benchmarks.dht import step; step({arguments})"
    sys.exit(subprocess.run([sys.executable, "-c", code]).returncode)


if __name__ == "__main__":
    main()
