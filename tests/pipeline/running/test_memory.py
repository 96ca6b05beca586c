import subprocess
import sys

from pipeline.running import memory

SAYS = "from pipeline.running import memory; print(memory.peak())"


def test_a_small_process_of_a_large_one_is_small():
    held = bytearray(300 * 2**20)
    small = int(subprocess.run([sys.executable, "-c", SAYS], capture_output=True, check=True).stdout)
    assert memory.peak() > len(held) and 4 * 2**20 < small < 150 * 2**20


def test_what_was_let_go_counts():
    said = f"held = bytearray(200 * 2**20); del held; {SAYS}"
    assert int(subprocess.run([sys.executable, "-c", said], capture_output=True, check=True).stdout) > 200 * 2**20
