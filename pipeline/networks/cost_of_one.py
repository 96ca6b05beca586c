"""Measure one method at one size in this process: python -m pipeline.networks.cost_of_one '{"name": ..., ...}'

Prints one line of JSON with parameters, gmacs, ms and peak_mib; gmacs are multiply-adds in 10^9 of convolutions and
matrix products. Random weights: time and memory don't depend on them.
"""

import json
import resource
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import models
from models.layers.input_size import NotDivisible
from pipeline.networks import cost, export
from pipeline.running import memory


def main(task: dict) -> None:
    if task["device"] == "cpu":
        limit = int(task["gib"] * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    torch.manual_seed(0)
    model = models.create(task["name"], **task["hyperparameters"]).eval()
    device = torch.device("cuda" if task["device"] == "gpu" else "cpu")
    method = export.Pasted(model.to(device)).eval()
    height, width = task["size"]
    given = [value.to(device) for value in export.inputs(method, height, width, seed=0)]
    with torch.no_grad():
        counter = FlopCounterMode(display=False)
        try:
            with counter:
                method(*given)
        except NotDivisible as asked:  # a margin out to the next multiple, as commands.apply has it
            assert asked.by is not None  # require_divisible says it
            margin = (0, -width % asked.by, 0, -height % asked.by)
            given = [F.pad(value, margin, mode="replicate") for value in given]
            counter = FlopCounterMode(display=False)
            with counter:
                method(*given)
        spent: list[float] = []
        started = time.perf_counter()
        while len(spent) < cost.ROUNDS and (not spent or time.perf_counter() - started < 20):
            begun = time.perf_counter()
            method(*given)
            if device.type == "cuda":
                torch.cuda.synchronize()
            spent.append(1000 * (time.perf_counter() - begun))
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = memory.peak() / 2**20
    flops = counter.get_total_flops()
    measured = {
        "parameters": cost.parameters_of(model),
        "gmacs": flops / 2e9,
        "ms": statistics.median(spent),
        "peak_mib": peak,
    }
    print(json.dumps(measured | {"why_not": ""}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
