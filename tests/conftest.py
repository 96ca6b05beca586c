"""One thread per test process: small networks run many times slower when the threads of several processes wait for
each other, and results do not depend on it."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as make and every command have it, for trainings of several threads

import torch

torch.set_num_threads(1)
