"""Files that aren't text, aren't JSON or aren't files: one line each, and nothing waits."""

import os

import pytest

from pipeline import reading
from pipeline.errors import ParameterError, UserError
from pipeline.params import loading


def looped(path):
    path.symlink_to(path.name)


FILES = {
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "a folder, not a file"),
    "pipe": (lambda path: os.mkfifo(path), "a pipe or device, not a file"),
    "loop of links": (looped, "can't be read \\(Too many levels of symbolic links\\)"),
    "not UTF-8": (lambda path: path.write_bytes(b"\xff\xfe\x00"), "not UTF-8 text"),
    "nested": (lambda path: path.write_text("[" * 100_000), "nested too deeply"),
    "cut": (lambda path: path.write_text('{"a": '), "not JSON \\(Expecting value"),
    "empty": (lambda path: path.write_text(""), "not JSON \\(Expecting value"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_json_is_said_in_one_line(tmp_path, name):
    make, reason = FILES[name]
    make(tmp_path / "a.json")
    with pytest.raises(UserError, match=f"a.json: .*{reason}") as caught:
        reading.as_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


def test_long_names_and_marks(tmp_path):
    with pytest.raises(UserError, match="File name too long"):
        reading.text(tmp_path / ("n" * 5000))
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\n two \n")
    assert reading.lines(tmp_path / "a.txt") == ["one", "two"]


@pytest.mark.parametrize("text", ["a: " + "[" * 5000, "\n".join(" " * depth + "a:" for depth in range(3000))])
def test_deeply_nested_yaml_is_one_line(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParameterError, match="nested too deeply|is not YAML") as caught:
        loading.load(tmp_path / "params.yaml")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
