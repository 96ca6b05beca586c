import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import SegformerConfig, SegformerForImageClassification

import models
from models.localization.segformer import VARIANTS


@pytest.fixture(autouse=True)
def quiet():
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    yield
    transformers.utils.logging.enable_progress_bar()
    transformers.utils.logging.set_verbosity_warning()


@pytest.fixture
def checkpoint(tmp_path):
    """A folder as the library publishes MiT-B0: an image classifier's, in the published names."""
    depths, widths, _ = VARIANTS["b0"]
    torch.manual_seed(1)
    network = SegformerForImageClassification(SegformerConfig(depths=depths, hidden_sizes=widths, num_labels=10))
    network.save_pretrained(tmp_path / "mit-b0")
    return tmp_path / "mit-b0", network.segformer


def test_a_local_checkpoint_fills_the_encoder(checkpoint):
    folder, published = checkpoint
    model = models.create("segformer", variant="b0", backbone_weights=str(folder))
    for (name, ours), theirs in zip(model.network.segformer.named_parameters(), published.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_a_checkpoint_of_another_variant_is_refused(checkpoint):
    with pytest.raises(ValueError, match="no weights of MiT-B1 to be had from .*mit-b0"):
        models.create("segformer", variant="b1", backbone_weights=str(checkpoint[0]))


def test_a_checkpoint_with_a_hole_is_refused_not_filled_at_random(checkpoint):
    file = checkpoint[0] / "model.safetensors"
    state = load_file(file)
    del state["segformer.encoder.block.0.0.attention.self.key.weight"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="has no tensor stages.0.blocks.0"):
        models.create("segformer", variant="b0", backbone_weights=str(checkpoint[0]))


def test_stochastic_depth_is_a_rate():
    with pytest.raises(ValueError, match="drop_path = 1.0"):
        models.create("segformer", variant="b0", drop_path=1.0)
