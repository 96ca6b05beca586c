import json
import subprocess
import sys

import pandas as pd
import pytest

from benchmarks import __main__ as suite
from benchmarks import metrics, networks, record


def line(value: float, better: str = "lower", row: str = "a") -> str:
    return json.dumps(["metrics", row, "ms", value, better])


def test_worse_is_a_ratio_whose_direction_the_record_states():
    before = suite.described([line(2.0), line(2.0, "higher", "b"), line(1.0, row="gone")], "1")
    now = suite.described([line(3.0), line(4.0, "higher", "b"), line(1.0, row="new")], "2")
    table = suite.compared(now, before)
    assert table["row"].tolist() == ["a", "b"] and table["worse"].tolist() == [1.5, 0.5]


def test_a_run_is_compared_with_the_latest_of_the_same_machine(tmp_path):
    now = suite.described([line(1.0)], "4")
    assert suite.earlier(tmp_path, now) is None
    now.to_parquet(tmp_path / "1.parquet")
    now.to_parquet(tmp_path / "2.parquet")
    now.assign(processor="another").to_parquet(tmp_path / "3.parquet")
    assert suite.earlier(tmp_path, now) == tmp_path / "2.parquet"
    assert {"processor", "cores", "memory", "gpu", "when", "load"} <= set(pd.read_parquet(tmp_path / "1.parquet"))


def test_a_number_is_kept_only_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv(record.KEPT_IN, raising=False)
    record.record("metrics", "a", "ms", 1.0, "lower")
    monkeypatch.setenv(record.KEPT_IN, str(tmp_path / "records"))
    record.record("metrics", "a", "ms", 1.0, "lower")
    assert (tmp_path / "records").read_text() == line(1.0) + "\n"
    with pytest.raises(ValueError, match="expected higher or lower"):
        record.record("metrics", "a", "ms", 1.0, "big")


def test_a_peer_that_cannot_be_had_is_named_in_a_line(tmp_path, monkeypatch, capsys):
    def refused(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "looking\nERROR: no network\n")

    monkeypatch.setattr(suite, "PEERS", {"no_such_module": ["no-such-package==1"]})
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(subprocess, "run", refused)
    suite.install_peers(tmp_path)
    assert (
        capsys.readouterr().err == "no-such-package==1 can't be installed (ERROR: no network): its rows are left out\n"
    )


def test_metrics_are_those_of_the_peers():
    for name, (ours, peer, items) in metrics.cases(size=64, images=1).items():
        assert metrics.difference(ours(*items[0]), peer(*items[0])) < 1e-4, name


def test_the_networks_of_the_suite_take_its_size():
    arguments = suite.SUITE["networks"]
    names, size = arguments[1 : arguments.index("--size")], int(arguments[arguments.index("--size") + 1])
    for name in names:
        networks.size_of(name, networks.pictures(1, size, "cpu"))


def test_a_network_that_refuses_the_size_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["networks", "--only", "rainnet", "--size", "128"])
    networks.main()
    assert "rainnet: height 128 is not divisible by 256" in capsys.readouterr().out
