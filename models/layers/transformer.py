"""Transformer layers that add a position to queries and keys in every layer, and keep no attention map.

Vaswani et al., "Attention Is All You Need", 2017, with the positions of Carion et al., "End-to-End Object Detection
with Transformers" (DETR), 2020. Normalization comes after each residual sum, the activation is GELU, and there is no
dropout.

Attention runs through `scaled_dot_product_attention`, which keeps no matrix of queries by keys: with 4,096 tokens and 2
heads that matrix would be 128 MiB for each image and layer. In training, what lies between the two layers of a token's
network is computed again for the gradient and not kept: D-HT's step on 4 pictures of 256 pixels then peaks at 7.1 GiB
on a CPU, and at 8.1 GiB without that.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

TEMPERATURE = 10000


def sine_positions(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """A code of each place of a grid, row by row: (height * width, channels), float32.

    The first half of the channels codes the row, the second half the column, both counted from 1. Within a half,
    channels 2 i and 2 i + 1 are the sine and cosine of the count divided by 10000 ** (2 i / (channels / 2)). Raises
    ValueError where `channels` is not divisible by 4.
    """
    if channels % 4:
        raise ValueError(f"positions need a number of channels that is divisible by 4, not {channels}")
    half = channels // 2
    rates = TEMPERATURE ** (torch.arange(0, half, 2, dtype=torch.float32, device=device) / half)

    def code(length: int) -> Tensor:  # (length, half)
        angles = torch.arange(1, length + 1, dtype=torch.float32, device=device)[:, None] / rates
        return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)

    rows = code(height)[:, None].expand(-1, width, -1)
    columns = code(width)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)


def _feedforward(tokens: Tensor, expand: nn.Linear, contract: nn.Linear, norm: nn.LayerNorm) -> Tensor:
    """norm(tokens + contract(gelu(expand(tokens)))), (N, T, C); the gradient recomputes what is between."""

    def run(tokens: Tensor) -> Tensor:
        return norm(tokens + contract(F.gelu(expand(tokens))))

    if not torch.is_grad_enabled():
        return run(tokens)
    return checkpoint(run, tokens, use_reentrant=False, preserve_rng_state=False)  # nothing random in it


class EncoderLayer(nn.Module):
    """Self-attention, then a network of two layers for each token; after each the sum with its input is normalized."""

    def __init__(self, channels: int, heads: int, hidden: int):
        super().__init__()
        self.self_attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.expand = nn.Linear(channels, hidden)
        self.contract = nn.Linear(hidden, channels)
        self.norm_attention = nn.LayerNorm(channels)
        self.norm_feedforward = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor, positions: Tensor, ignored: Tensor | None = None) -> Tensor:
        """(N, T, C) from tokens of that shape and positions (T, C). ignored: (N, T), True = no token attends to this
        one; each item needs a token that is not ignored."""
        placed = tokens + positions
        attended, _ = self.self_attention(placed, placed, tokens, key_padding_mask=ignored, need_weights=False)
        tokens = self.norm_attention(tokens + attended)
        return _feedforward(tokens, self.expand, self.contract, self.norm_feedforward)


class DecoderLayer(nn.Module):
    """Self-attention among the queries, attention from the queries to a memory, then a network of two layers for each
    query; after each the sum with its input is normalized."""

    def __init__(self, channels: int, heads: int, hidden: int):
        super().__init__()
        self.self_attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.memory_attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.expand = nn.Linear(channels, hidden)
        self.contract = nn.Linear(hidden, channels)
        self.norm_attention = nn.LayerNorm(channels)
        self.norm_memory = nn.LayerNorm(channels)
        self.norm_feedforward = nn.LayerNorm(channels)

    def forward(
        self,
        queries: Tensor,
        memory: Tensor,
        positions: Tensor,
        memory_positions: Tensor,
        ignored: Tensor | None = None,
    ) -> Tensor:
        """(N, T, C) from queries of that shape with positions (T, C), and a memory (N, S, C) with positions (S, C).
        ignored: (N, S), True = no query attends to this place of the memory; each item needs one that is not
        ignored."""
        placed = queries + positions
        attended, _ = self.self_attention(placed, placed, queries, need_weights=False)
        queries = self.norm_attention(queries + attended)
        attended, _ = self.memory_attention(
            queries + positions, memory + memory_positions, memory, key_padding_mask=ignored, need_weights=False
        )
        queries = self.norm_memory(queries + attended)
        return _feedforward(queries, self.expand, self.contract, self.norm_feedforward)


class Encoder(nn.Module):
    """`layers` encoder layers; nothing follows the last one."""

    def __init__(self, layers: int, channels: int, heads: int, hidden: int):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(channels, heads, hidden) for _ in range(layers))

    def forward(self, tokens: Tensor, positions: Tensor, ignored: Tensor | None = None) -> Tensor:
        """As EncoderLayer.forward."""
        for layer in self.layers:
            tokens = layer(tokens, positions, ignored)
        return tokens


class Decoder(nn.Module):
    """`layers` decoder layers and a layer normalization."""

    def __init__(self, layers: int, channels: int, heads: int, hidden: int):
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(channels, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)

    def forward(
        self,
        queries: Tensor,
        memory: Tensor,
        positions: Tensor,
        memory_positions: Tensor,
        ignored: Tensor | None = None,
    ) -> Tensor:
        """As DecoderLayer.forward."""
        for layer in self.layers:
            queries = layer(queries, memory, positions, memory_positions, ignored)
        return self.norm(queries)
