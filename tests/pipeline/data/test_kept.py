from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.data import datasets, kept
from pipeline.errors import UserError
from pipeline.params import schema
from tests.pipeline.tiny import subset


def test_decoded_pictures_are_kept_up_to_a_limit():
    calls = []

    def read(file, **options):
        calls.append(file)
        return np.zeros(100, np.uint8)

    decoded = kept.Decoded(limit=250)
    for file in "abcabc":
        decoded(read, file)
    assert calls == ["a", "b", "c", "c"]  # two fit, the third is decoded every time


@pytest.mark.parametrize(("memory", "workers", "n_kept"), [(6400, None, 4), (6400, 2, 2), (1 << 40, None, 6)])
def test_kept_pictures_take_a_share_of_memory_that_workers_divide(monkeypatch, memory, workers, n_kept):
    monkeypatch.setattr(
        kept.psutil, "virtual_memory", lambda: SimpleNamespace(total=memory)
    )  # 6400 / 16: four pictures of 100 bytes
    monkeypatch.setattr("torch.utils.data.get_worker_info", lambda: workers and SimpleNamespace(num_workers=workers))
    decoded = kept.Decoded()
    for file in "abcdef":
        decoded(lambda file, **options: np.zeros(100, np.uint8), file)
    assert len(decoded.kept) == n_kept


def test_a_walk_keeps_the_latest_pictures_alone():
    calls, latest = [], kept.Latest(2)
    read = lambda file, max_pixels: calls.append(file) or np.zeros(1)
    for file in "aabacab":
        latest(read, file)
    assert "".join(calls) == "abcb" and len(latest.kept) == 2


# ---- training items at their side

WHOLE = schema.Augmentation(flip=True, crop=None)


def training_set(folder, shrunk_in, **limits):
    rows = [{"pair_id": f"c{number}_1_1", "split": "train", "foreground_ratio": 0.25} for number in range(4)]
    if not (folder / "HCOCO").exists():
        subset(folder / "HCOCO", [*rows, {"pair_id": "c9_1_1", "split": "val", "foreground_ratio": 0.25}])
    dataset, _ = datasets.for_training("harmonization", [folder / "HCOCO"], 16)
    dataset.shrunk = kept.Shrunk(shrunk_in, **limits)
    return dataset


def epoch(dataset) -> list[bytes]:
    items = [dataset.augmented(index, WHOLE, 1, index) for index in range(4)]
    assert all(item["mask"].dtype == bool and item["real"].shape == (16, 16, 3) for item in items)
    return [b"".join(item[key].tobytes() for key in ("composite", "mask", "real")) for item in items]


ITEM = 16 * 16 * 7


@pytest.mark.parametrize("memory", [0, 2 * ITEM, 1 << 20])
def test_an_item_is_the_same_whether_it_is_made_or_comes_from_memory_or_disk(tmp_path, memory, monkeypatch):
    dataset = training_set(tmp_path, None, memory_limit=0)
    made = epoch(dataset)
    # a crop of everything is made from the original by code of its own
    everything = SimpleNamespace(flip=True, crop=SimpleNamespace(low=1.0, high=1.0))
    monkeypatch.setattr(datasets, "_crop_box", lambda rng, height, width, share: (0, 0, height, width))
    cropped = [dataset.augmented(index, everything, 1, index) for index in range(4)]
    assert made == [b"".join(item[key].tobytes() for key in ("composite", "mask", "real")) for item in cropped]
    limits = {"memory_limit": memory, "disk_limit": 1 << 20}
    first = training_set(tmp_path, tmp_path / "shrunk", **limits)
    assert epoch(first) == made and epoch(first) == made
    n_files = {0: 4, 2 * ITEM: 2, 1 << 20: 0}[memory]
    assert len(list((tmp_path / "shrunk").rglob("*.npy"))) == n_files
    second = training_set(tmp_path, tmp_path / "shrunk", **limits)
    monkeypatch.setattr(second, "_read", lambda *_: pytest.fail("decoded again"))
    if memory == 0:
        assert epoch(second) == made


def test_disk_is_filled_up_to_a_limit_that_what_lies_there_counts_for(tmp_path):
    file = ITEM + 128  # the head of a .npy file
    epoch(training_set(tmp_path, tmp_path / "shrunk", memory_limit=0, disk_limit=2 * file + 1))
    assert len(list((tmp_path / "shrunk").rglob("*.npy"))) == 2
    (tmp_path / "shrunk" / "other code").mkdir()
    epoch(training_set(tmp_path, tmp_path / "shrunk", memory_limit=0, disk_limit=3 * file + 1))
    assert len(list((tmp_path / "shrunk").rglob("*.npy"))) == 3
    assert not (tmp_path / "shrunk" / "other code").exists()


def test_an_edited_a_cut_and_a_missing_picture(tmp_path):
    limits = {"memory_limit": 0, "disk_limit": 1 << 20}
    before = epoch(training_set(tmp_path, tmp_path / "shrunk", **limits))
    for file in (tmp_path / "shrunk").rglob("*.npy"):
        file.write_bytes(file.read_bytes()[:500])
    assert epoch(training_set(tmp_path, tmp_path / "shrunk", **limits)) == before
    picture, other = (tmp_path / f"HCOCO/real_images/c{number}_1_1.png" for number in (0, 1))
    picture.write_bytes(other.read_bytes())
    after = epoch(training_set(tmp_path, tmp_path / "shrunk", **limits))
    assert [first == second for first, second in zip(before, after)] == [False, True, True, True]
    picture.unlink()
    with pytest.raises(UserError, match="c0_1_1.png: no such file"):
        epoch(training_set(tmp_path, tmp_path / "shrunk", **limits))
