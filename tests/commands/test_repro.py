"""The check of the graph beside DVC's reading of it. Whole runs are tests/pipeline/running/test_jobs.py."""

import time

import pytest

from commands import repro


@pytest.fixture
def graph_says(tmp_path, monkeypatch):
    """Put a commands/graph.py of this content where `python -m commands.graph` finds it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "commands").mkdir()
    return (tmp_path / "commands/graph.py").write_text


def test_a_wrong_parameter_ends_the_run_in_the_checks_words(graph_says, capfd):
    graph_says("import sys; sys.exit('graph: params.yaml: no such key')")
    with pytest.raises(SystemExit) as left, repro._graph_being_checked() as wait_for_check:
        wait_for_check()
    assert left.value.code == 1
    assert capfd.readouterr().err == "graph: params.yaml: no such key\n"


def test_a_check_that_passes_says_what_it_has_to_say(graph_says, capfd):
    graph_says("import sys; print('one', file=sys.stderr)")
    with repro._graph_being_checked() as wait_for_check:
        wait_for_check()
    assert capfd.readouterr().err == "one\n"


def test_where_nothing_is_stale_nobody_waits_for_the_check(graph_says, capfd):
    graph_says("import time; print('late', flush=True); time.sleep(60)")
    started = time.monotonic()
    with repro._graph_being_checked():
        pass
    assert time.monotonic() - started < 30 and capfd.readouterr().err == ""
