"""One thread per test process: small networks run many times slower when the threads of several processes wait for
each other, and results do not depend on it."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import torch

torch.set_num_threads(1)
