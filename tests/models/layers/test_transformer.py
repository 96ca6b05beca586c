import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.layers.transformer import (
    Decoder,
    DecoderLayer,
    Encoder,
    EncoderLayer,
    sine_positions,
)


def test_positions_by_hand():
    positions = sine_positions(2, 3, 8)
    assert positions.shape == (6, 8)
    # row 2, column 3 (counted from 1): rates 1 and 10000 ** (2 / 4) = 100, rows first
    row = [math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)]
    column = [math.sin(3), math.cos(3), math.sin(0.03), math.cos(0.03)]
    torch.testing.assert_close(positions[5], torch.tensor(row + column))
    first = [math.sin(1), math.cos(1), math.sin(0.01), math.cos(0.01)]
    torch.testing.assert_close(positions[3, 4:], torch.tensor(first))
    with pytest.raises(ValueError, match="divisible by 4, not 6"):
        sine_positions(2, 2, 6)


def test_without_positions_an_encoder_layer_is_torchs():
    torch.manual_seed(0)
    ours, theirs = EncoderLayer(8, 2, 12), nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu", batch_first=True)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values())))
    tokens, ignored = torch.randn(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool)
    ignored[1, 2:] = True
    torch.testing.assert_close(ours(tokens, torch.zeros(5, 8)), theirs(tokens))
    torch.testing.assert_close(ours(tokens, torch.zeros(5, 8), ignored), theirs(tokens, src_key_padding_mask=ignored))


def test_without_positions_a_decoder_is_torchs():
    torch.manual_seed(0)
    ours = Decoder(2, 8, 2, 12)
    layer = nn.TransformerDecoderLayer(8, 2, 12, 0.0, "gelu", batch_first=True)
    theirs = nn.TransformerDecoder(layer, 2, nn.LayerNorm(8))
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values())))
    queries, memory, ignored = torch.randn(3, 4, 8), torch.randn(3, 6, 8), torch.zeros(3, 6, dtype=torch.bool)
    ignored[2, :5] = True
    ours_out = ours(queries, memory, torch.zeros(4, 8), torch.zeros(6, 8), ignored)
    torch.testing.assert_close(ours_out, theirs(queries, memory, memory_key_padding_mask=ignored))


def test_positions_reach_queries_and_keys_but_not_values():
    torch.manual_seed(0)
    layer, tokens, positions = EncoderLayer(8, 1, 12), torch.randn(1, 5, 8), torch.randn(5, 8)
    attention = layer.self_attention
    query, key, value = (
        F.linear(given, weight)
        for given, weight in zip((tokens + positions, tokens + positions, tokens), attention.in_proj_weight.chunk(3))
    )
    weights = (query @ key.transpose(1, 2) / math.sqrt(8)).softmax(2)
    attended = F.layer_norm(tokens + weights @ value @ attention.out_proj.weight.T, (8,))
    expected = F.layer_norm(attended + layer.contract(F.gelu(layer.expand(attended))), (8,))
    torch.testing.assert_close(layer(tokens, positions), expected, atol=1e-5, rtol=1e-5)


def test_a_decoder_layer_adds_each_position_to_its_own():
    """Moving a part from the memory's content to its positions leaves the keys as they are, and changes the values."""
    torch.manual_seed(0)
    layer = DecoderLayer(8, 1, 12)
    queries, memory, asked, places = torch.randn(1, 3, 8), torch.randn(1, 5, 8), torch.randn(3, 8), torch.randn(5, 8)
    with torch.no_grad():
        layer.memory_attention.in_proj_weight[16:] = 0  # values read nothing
        same = layer(queries, memory, asked, places), layer(queries, memory + places, asked, torch.zeros(5, 8))
    torch.testing.assert_close(*same)
    moved = layer(queries, memory, asked + 1, places)
    assert not torch.allclose(moved, same[0], atol=1e-3)


def test_ignored_tokens_do_not_matter_to_others():
    torch.manual_seed(0)
    encoder, tokens, positions = Encoder(2, 8, 2, 12), torch.randn(1, 5, 8), sine_positions(1, 5, 8)
    ignored = torch.tensor([[False, True, False, False, True]])
    changed = torch.where(ignored[..., None], torch.randn(1, 5, 8), tokens)
    first, second = (encoder(given, positions, ignored)[:, ~ignored[0]] for given in (tokens, changed))
    torch.testing.assert_close(first, second)


def test_no_attention_map_is_kept_for_the_gradient():
    torch.manual_seed(0)
    encoder, tokens = Encoder(1, 8, 2, 16), torch.randn(1, 300, 8, requires_grad=True)
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        encoder(tokens, sine_positions(15, 20, 8)).sum().backward()
    assert kept and not any(shape[-2:] == (300, 300) for shape in kept)
