"""`make setup`, with a stand-in for Python that makes environments in no time."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# `-m venv FOLDER` makes a folder with a python in it; that python's `-m pip install` notes the lock's first line, and with
# --dry-run says whether it is noted
PYTHON = """#!/bin/sh
if [ "$1" = -c ]; then exec {real} "$@"; fi
mkdir -p "$3/bin"
cat > "$3/bin/python" <<'END'
#!/bin/sh
here=$(dirname "$0")/..
case "$*" in
*--dry-run*) cmp -s requirements.lock "$here/installed";;
*) cp requirements.lock "$here/installed";;
esac
END
chmod +x "$3/bin/python"
"""


class Checkout:
    def __init__(self, folder: Path):
        folder.mkdir()
        self.folder, self.environment = folder, folder / ".venv"
        shutil.copy(ROOT / "Makefile", folder)
        self.python = folder / "python"
        self.python.write_text(PYTHON.format(real=sys.executable))
        self.python.chmod(0o755)
        self.lock("numpy==1")

    def lock(self, line: str) -> None:
        (self.folder / "requirements.lock").write_text(f"{line}\n")

    def setup(self) -> tuple[int, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        done = subprocess.run(
            ["make", "-s", "setup", f"PYTHON={self.python}"], cwd=self.folder, env=kept, capture_output=True, text=True
        )
        return done.returncode, done.stderr.partition("make: ***")[0]

    def ready(self) -> bool:
        """Whether the environment says that it holds the lock's packages, and does."""
        lock = (self.folder / "requirements.lock").read_bytes()
        return (self.environment / "ready").read_text().strip() == hashlib.sha256(lock).hexdigest() and (
            self.environment / "installed"
        ).read_bytes() == lock


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return Checkout(tmp_path / "checkout")


def test_the_environment_is_made_once_and_anew_when_the_lock_has_changed(checkout):
    assert checkout.setup() == (0, "") and checkout.ready()
    (checkout.environment / "mine").touch()
    (checkout.folder / "requirements.lock").touch()  # as a fresh clone: a newer time, the same content
    assert checkout.setup() == (0, "") and (checkout.environment / "mine").exists()
    checkout.lock("numpy==2")
    assert checkout.setup() == (0, "") and checkout.ready() and not (checkout.environment / "mine").exists()


def test_a_set_up_that_was_interrupted_begins_anew(checkout):
    checkout.setup()
    (checkout.environment / "ready").unlink()
    (checkout.environment / "installed").unlink()
    (checkout.environment / "half").touch()
    assert checkout.setup() == (0, "") and checkout.ready() and not (checkout.environment / "half").exists()


@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
def test_nothing_and_an_empty_folder_are_no_obstacle(checkout, left):
    if left == "an empty folder":
        checkout.environment.mkdir()
    assert checkout.setup() == (0, "") and checkout.ready()


def test_a_folder_that_set_up_did_not_make_is_never_emptied(checkout):
    subprocess.run([checkout.python, "-m", "venv", checkout.environment], check=True)
    code, said = checkout.setup()
    assert (
        code == 2 and said.startswith(".venv was not made by make setup and lacks packages") and said.count("\n") == 1
    )
    assert (checkout.environment / "bin" / "python").exists() and not (checkout.environment / "ready").exists()
    # with the packages it is used, and after a change of the lock still not emptied
    shutil.copy(checkout.folder / "requirements.lock", checkout.environment / "installed")
    assert checkout.setup() == (0, "") and checkout.ready()
    checkout.lock("numpy==2")
    assert checkout.setup()[0] == 2 and (checkout.environment / "installed").exists()


def test_a_link_is_never_followed_to_empty_what_it_leads_to(checkout, tmp_path):
    shared = Checkout(tmp_path / "shared")
    assert shared.setup() == (0, "")
    checkout.environment.symlink_to(shared.environment)
    assert checkout.setup() == (0, "") and checkout.ready()
    checkout.lock("numpy==2")
    code, said = checkout.setup()
    assert (
        code == 2
        and said.startswith(f".venv is a link to {shared.environment}, which lacks packages")
        and said.count("\n") == 1
    )
    assert shared.ready() and checkout.environment.is_symlink()
    shared.environment.rename(tmp_path / "moved")
    assert checkout.setup()[0] == 2 and checkout.environment.is_symlink()


def test_an_environment_of_an_older_set_up_is_taken_over(checkout):
    checkout.setup()
    (checkout.environment / "made_by_setup").unlink()
    (checkout.environment / "ready").write_text("")
    assert checkout.setup() == (0, "") and checkout.ready()
    checkout.lock("numpy==2")
    assert checkout.setup() == (0, "") and checkout.ready()


def test_git_ignores_the_environment_and_a_link_to_one(checkout, tmp_path):
    shutil.copy(ROOT / ".gitignore", checkout.folder)
    subprocess.run(["git", "init", "-q"], cwd=checkout.folder, check=True)
    checkout.environment.symlink_to(tmp_path)
    said = subprocess.run(
        ["git", "status", "--porcelain"], cwd=checkout.folder, capture_output=True, text=True, check=True
    ).stdout
    assert "requirements.lock" in said and ".venv" not in said
