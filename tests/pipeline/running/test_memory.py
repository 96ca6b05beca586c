import platform
import subprocess
import sys

import pytest

from pipeline.running import memory

SAYS = "from pipeline.running import memory; print(memory.peak())"


def test_a_small_process_of_a_large_one_is_small():
    held = bytearray(300 * 2**20)
    small = int(subprocess.run([sys.executable, "-c", SAYS], capture_output=True, check=True).stdout)
    assert memory.peak() > len(held) and 4 * 2**20 < small < 150 * 2**20


def test_what_was_let_go_counts():
    said = f"held = bytearray(200 * 2**20); del held; {SAYS}"
    assert int(subprocess.run([sys.executable, "-c", said], capture_output=True, check=True).stdout) > 200 * 2**20


FAULTS = """
import resource
from pipeline.running import memory
def faults():  # pages that the kernel had to give for 128 MiB, which were held before
    bytearray(128 * 2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(128 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
handed_back = faults()
memory.keep_freed()
print(handed_back, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library has no mallopt")
def test_freed_memory_is_allocated_again_without_the_kernel():
    said = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, check=True, text=True).stdout
    handed_back, kept = map(int, said.split())
    assert handed_back >= 64 and kept <= handed_back / 8  # 64: were the pages of 2 MiB
