"""How much a command says: -v, -q and the environment variable that stages inherit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import logs

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import subprocess, sys
from pipeline import command
from pipeline.logs import LOG
from pipeline.progress import Progress

def main(arguments):
    LOG.debug("in between")
    LOG.info("done so far")
    LOG.warning("odd")
    print("result")
    with Progress("work", 1) as progress:
        progress.add()
    subprocess.run([sys.executable, "-c", "from pipeline.logs import LOG; LOG.info('a stage')"], check=True)

command.run(main, command.parser("does nothing").parse_args())
"""


def said(*arguments: str, **environment: str) -> str:
    clean = {key: value for key, value in os.environ.items() if key != logs.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=clean | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "result\n"
    return done.stderr


def test_a_command_says_what_it_does():
    lines = said().splitlines()
    assert lines[:2] == ["done so far", "odd"] and lines[2].startswith("work: 1/1 images") and lines[3:] == ["a stage"]


def test_quiet_says_what_is_wrong_alone():
    assert said("-q") == said(SEAMBENCH_LOG="quiet") == "odd\n"


def test_verbose_says_when_and_where_too():
    first, *_, last = said("--verbose").splitlines()
    assert first.endswith(": in between") and first[2] == first[5] == ":" and last.endswith(": a stage")


def test_a_flag_counts_more_than_the_environment():
    assert "a stage" in said("-v", SEAMBENCH_LOG="quiet")


@pytest.mark.parametrize("odd", ["", "loud"])
def test_an_unknown_level_of_the_environment_is_the_normal_one(odd):
    assert said(SEAMBENCH_LOG=odd).startswith("done so far\nodd\n")
