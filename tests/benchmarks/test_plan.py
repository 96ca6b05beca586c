from pathlib import Path

from ruamel.yaml import YAML

from benchmarks import plan
from pipeline import params

SAID = """\
 in all                    0.178  0.000  0.63 GiB  47 MiB
 cores  GPUs  JOBS  wall time  peak memory  limited by
 2      0     1     353 s      0.6 GiB      one stage at a time
 2      0     2     42 min     1.1 GiB      cores
 2      0     4     3.5 h      1.1 GiB      cores
"""


def test_wall_times_are_read_from_the_plan():
    assert plan.planned(SAID) == {1: 353.0, 2: 2520.0, 4: 12600.0}


def test_reduced_preset_is_accepted_and_trains_thirty_steps(tmp_path):
    YAML().dump(plan.reduced(Path("photos")), tmp_path / "params.yaml")
    parameters = params.load(tmp_path / "params.yaml")
    assert tuple(parameters.models) == plan.REDUCED
    trained = {name: block.training for name, block in parameters.models.items() if block.training}
    assert set(trained) == {"unet_lite0", "rainnet", "pct", "pconv"}
    assert {(training.epochs, training.max_steps_per_epoch) for training in trained.values()} == {(1, 30)}
