import numpy as np
import pandas
import pytest

from pipeline import tables
from pipeline.errors import UserError

COLUMNS = {"name": str, "count": int, "share": float, "kept": bool}
ROWS = [
    {"name": "b", "count": 2, "share": 0.5, "kept": True},
    {"name": None, "count": 2**40, "share": float("nan"), "kept": False},
]


def test_round_trip_keeps_order_types_and_missing_text(tmp_path):
    tables.write(tmp_path / "t.parquet", tables.frame(ROWS, COLUMNS))
    back = tables.read(tmp_path / "t.parquet")
    assert list(back.columns) == list(COLUMNS)
    assert back["count"].tolist() == [2, 2**40] and back["count"].dtype == np.int64
    assert back["name"].isna().tolist() == [False, True] and back["name"][0] == "b"
    assert back["kept"].tolist() == [True, False] and np.isnan(back["share"][1])


def test_a_table_without_rows_keeps_its_types(tmp_path):
    tables.write(tmp_path / "full.parquet", tables.frame(ROWS, COLUMNS))
    tables.write(tmp_path / "empty.parquet", tables.frame([], COLUMNS))
    empty = tables.read(tmp_path / "empty.parquet")
    assert len(empty) == 0 and empty.dtypes.equals(tables.read(tmp_path / "full.parquet").dtypes)


def test_same_content_same_bytes_whatever_the_index(tmp_path):
    table = tables.frame(ROWS, COLUMNS)
    tables.write(tmp_path / "a.parquet", table)
    tables.write(tmp_path / "b.parquet", pandas.concat([table]).set_axis(["x", "y"]))
    content = (tmp_path / "a.parquet").read_bytes()
    assert content == (tmp_path / "b.parquet").read_bytes()
    assert b"pandas" not in content


def test_rows_must_fit_the_columns():
    with pytest.raises(KeyError, match="kept"):
        tables.frame([{"name": "a", "count": 1, "share": 0.0}], COLUMNS)
    with pytest.raises(KeyError, match="more"):
        tables.frame([ROWS[0] | {"more": 1}], COLUMNS)


def test_file_names_that_are_not_utf8_are_storable(tmp_path):
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    tables.write(tmp_path / "t.parquet", tables.frame([{"name": name}], {"name": str}))
    assert tables.read(tmp_path / "t.parquet")["name"][0].startswith("caf\\udce9")


def test_chosen_columns_in_the_order_asked(tmp_path):
    tables.write(tmp_path / "t.parquet", tables.frame(ROWS, COLUMNS))
    assert list(tables.read(tmp_path / "t.parquet", columns=["share", "name"]).columns) == ["share", "name"]


def test_errors_name_file_and_column(tmp_path):
    tables.write(tmp_path / "t.parquet", tables.frame(ROWS, COLUMNS))
    with pytest.raises(UserError, match=r"t\.parquet: no column 'split'; it has name, count, share, kept"):
        tables.read(tmp_path / "t.parquet", columns=["name", "split"])
    with pytest.raises(UserError, match=r"none\.parquet: no such table"):
        tables.read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("name,count\n")
    with pytest.raises(UserError, match=r"text\.parquet: not a Parquet table") as caught:
        tables.read(tmp_path / "text.parquet")
    assert "\n" not in str(caught.value)
