"""D-HT: reflectance by a transformer encoder, light by learned queries on the background, illumination by a decoder;
and HT.

Guo et al., "Image Harmonization With Transformer", ICCV 2021. Released code: zhenglab/HarmonyTransformer, its present
version (DHT+ and HT+, 2 heads and 9 layers everywhere). The state dict has the order and the shapes of the released
ones: 21,771,718 parameters for D-HT, 4,772,867 for HT.

- The paper's D-HT reads the background's patches by a further encoder before the light is asked of them; the released
  one does not. `light_encoder` adds it, which gives 26,515,654 parameters.
- Patches of the light that touch the foreground are left out as keys. Departure: in a picture all of whose patches
  touch it, all are keys; the released code's softmax would be over nothing there.
- HT's output is the tanh itself, trained on pictures in [0, 1] as released; it is clipped, not mapped.
- HT here is the released HT+, on linear patches of 4x4; the paper's has the convolutional coders of D-HT.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.base import Batch, Model
from models.layers.initialization import initialize_normal
from models.layers.input_size import require_divisible
from models.layers.intrinsic import ContentDecoder, content_encoder
from models.layers.transformer import Decoder, Encoder, sine_positions
from models.losses.foreground import foreground_mse

LIGHT_PATCH, PATCH = 8, 4


def patches(image: Tensor, side: int) -> Tensor:
    """Patches of a picture (N, C, H, W), row by row: (N, H W / side ** 2, side ** 2 * C). A patch's values are ordered
    by row, then column, then channel. H and W are divisible by `side`."""
    cut = image.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # (N, C, rows, side, columns, side)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


class Light(nn.Module):
    """The light of the background, as codes that learned queries collect from its patches."""

    def __init__(self, channels: int, heads: int, layers: int, codes: int, with_encoder: bool):
        super().__init__()
        self.embed = nn.Linear(3 * LIGHT_PATCH**2, channels)
        if with_encoder:
            self.encoder = Encoder(layers, channels, heads, 2 * channels)
        self.decoder = Decoder(layers, channels, heads, 2 * channels)
        self.queries = nn.Embedding(codes, channels)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """(N, codes, C). image: (N, 3, H, W), black in the foreground; mask: (N, 1, H, W), 0 = background."""
        rows, columns = (side // LIGHT_PATCH for side in image.shape[2:])
        tokens = self.embed(patches(image, LIGHT_PATCH))
        positions = sine_positions(rows, columns, tokens.shape[2], image.device)
        touched = patches(mask, LIGHT_PATCH).amax(2) > 0
        touched = touched & ~touched.all(1, keepdim=True)
        if hasattr(self, "encoder"):
            tokens = self.encoder(tokens, positions, touched)
        asked = self.queries.weight  # they stand as positions; what they collect begins at 0
        return self.decoder(asked.new_zeros(len(image), *asked.shape), tokens, asked, positions, touched)


class DHT(Model):
    task = "harmonization"
    players = ("network",)

    def __init__(
        self,
        form: Literal["dht", "ht"] = "dht",
        width: int = 64,
        heads: int = 2,
        layers: int = 9,
        light_codes: int = 27,
        light_encoder: bool = False,
        l1_weight: float = 100.0,
        reconstruction: Literal["l1", "foreground_mse"] = "l1",
        global_skip: bool = False,
    ):
        """form: "dht" draws a reflectance and an illumination; "ht" draws the picture by one encoder. width: channels
        of the first convolution; tokens have four times as many. heads, layers: of each encoder and decoder.
        light_codes: learned queries for the light; light_encoder: the encoder of the paper's light (form "dht" alone
        reads these two). l1_weight: of the reconstruction.
        reconstruction: "l1" as published, or "foreground_mse", the loss of Zhu et al. 2022 of the pasted output (not of the
        paper). global_skip: add the composite to the reflectance, whose product with the illumination is doubled,
        or to HT's output, so that training begins near the composite (not of the paper)."""
        super().__init__()
        channels = 4 * width
        if channels % heads:
            raise ValueError(f"D-HT: tokens of {channels} channels (4 * width) cannot be shared among {heads} heads")
        self.form, self.l1_weight = form, l1_weight
        self.reconstruction, self.global_skip = reconstruction, global_skip
        if form == "ht":
            self.embed = nn.Linear(4 * PATCH**2, channels)
            self.encoder = Encoder(layers, channels, heads, 2 * channels)
            self.head = nn.ConvTranspose2d(channels, 3, PATCH, PATCH)
        else:
            self.reflectance_stem = content_encoder(width)
            self.reflectance_decoder = ContentDecoder(width)
            self.reflectance_encoder = Encoder(layers, channels, heads, 2 * channels)
            self.light = Light(channels, heads, layers, light_codes, light_encoder)
            self.render = Decoder(layers, channels, heads, 2 * channels)
            self.illumination_decoder = ContentDecoder(width)
        initialize_normal(self)
        if global_skip and form == "dht":
            self.reflectance_decoder.quieten()
            self.illumination_decoder.quieten()
        elif global_skip:
            with torch.no_grad():
                self.head.weight *= 0.01

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [0, 1], to be pasted. Raises ValueError where H or W is not divisible by 8 (HT: by 4)."""
        return self._draw(batch).clamp(0, 1)

    def maps(self, batch: Batch) -> dict[str, Tensor]:
        """D-HT: reflectance and illumination, whose product is the prediction (its half, with global_skip). HT:
        none."""
        if self.form == "ht":
            return {}
        reflectance, illumination = self._decompose(batch)
        return {"reflectance": reflectance.clamp(0, 1), "illumination": illumination}

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """L1 of the unpasted, unclipped output on [0, 1], times its weight, or what `reconstruction` asks for."""
        self.require_player(player)
        drawn, real = self._draw(batch), batch["real"]
        if self.reconstruction == "foreground_mse":
            error = foreground_mse(torch.lerp(batch["composite"], drawn, batch["mask"]), real, batch["mask"])
        else:
            error = F.l1_loss(drawn, real)
        return self.l1_weight * error, {self.reconstruction: error.detach()}

    def _draw(self, batch: Batch) -> Tensor:
        """(N, 3, H, W), float32 also under autocast."""
        if self.form == "dht":
            reflectance, illumination = self._decompose(batch)
            return reflectance * illumination * (2 if self.global_skip else 1)
        inputs = torch.cat([batch["composite"], batch["mask"]], dim=1)
        require_divisible(inputs, PATCH)
        rows, columns = (side // PATCH for side in inputs.shape[2:])
        tokens = self.embed(patches(inputs, PATCH))
        tokens = self.encoder(tokens, sine_positions(rows, columns, tokens.shape[2], tokens.device))
        drawn = self.head(tokens.transpose(1, 2).unflatten(2, (rows, columns))).float().tanh()
        return batch["composite"] + drawn if self.global_skip else drawn

    def _decompose(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Reflectance and illumination, (N, 3, H, W), in [0, 1] (with global_skip the reflectance may leave it);
        float32 also under autocast."""
        composite, mask = batch["composite"], batch["mask"]
        require_divisible(composite, LIGHT_PATCH)
        content = self.reflectance_stem(torch.cat([composite, mask], dim=1))
        size = content.shape[2:]
        positions = sine_positions(size[0], size[1], content.shape[1], content.device)
        reflectance = self.reflectance_encoder(content.flatten(2).transpose(1, 2), positions)
        codes = self.light(composite * (1 - mask), mask)
        illumination = self.render(reflectance, codes, positions, self.light.queries.weight)
        reflectance, illumination = (
            decode(tokens.transpose(1, 2).unflatten(2, size))
            for decode, tokens in ((self.reflectance_decoder, reflectance), (self.illumination_decoder, illumination))
        )
        reflectance = composite + reflectance if self.global_skip else reflectance / 2 + 0.5
        return reflectance, illumination / 2 + 0.5
