import hashlib

import numpy as np
import pytest

from pipeline import images
from pipeline.errors import UserError
from pipeline.scoring import predictions


@pytest.fixture
def saved(tmp_path):
    file = tmp_path / "one.png"
    picture = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    images.write_png(file, picture)
    return file, hashlib.sha256(file.read_bytes()).hexdigest(), picture


def test_what_inference_left_comes_back(saved):
    file, sha256, picture = saved
    assert np.array_equal(predictions.read(file, sha256, 4), picture)


def test_anything_else_is_refused_by_name(saved):
    file, sha256, _ = saved
    with pytest.raises(UserError, match=r"one\.png is 4x4, expected 8x8$"):
        predictions.read(file, sha256, 8)
    with pytest.raises(UserError, match=r"one\.png was changed after inference"):
        predictions.read(file, "0" * 64, 4)
    file.unlink()
    with pytest.raises(UserError, match=r"one\.png is missing$"):
        predictions.read(file, sha256, 4)
