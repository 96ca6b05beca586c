"""RealismCNN: a critic tells photographs from composites; a foreground is recoloured until it takes it for real.

Zhu, Kraehenbuehl, Shechtman and Efros, "Learning a Discriminative Model for the Perception of Realism in Composite
Images", ICCV 2015, with the energy, bounds and starts of the released code (junyanz/RealismCNN). The critic is VGG-16
with two classes. A prediction minimizes, over a gain and a bias for each channel, the critic's -log p(photograph) and a
penalty on what changes.

Departures: the critic is trained on this project's composites and their photographs, where the authors' composites are
pastes from other photographs of 15 classes; it reads RGB normalized as torchvision's weights expect, not BGR less a
mean; the critic's term is -log p(photograph), while the released optimization network, whose output is used as it is,
was not published in readable form; gains and biases are found by our own quasi-Newton method within the bounds, where
the code calls MATLAB's fmincon; the mask is used as given, where the code feathers a hard one by 3 pixels; and what the
foreground's colours are compared with each other by is measured inside the mask, where the code has the whole picture
of the object.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VGG16_Weights

from models.base import Batch, Model
from models.layers.bounded_bfgs import minimize_within_bounds
from models.layers.imagenet import ImageNetNormalize, load_backbone
from models.losses.adversarial import frozen

CONVOLUTIONS = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""of VGG-16: multiples of the width, and how many convolutions, before each pooling"""
POOLED = 7
STARTS = (0.6, 0.8, 1.0, 1.2, 1.4)
"""gains that the search begins at, with biases of 0"""
LOWER, UPPER = (0.4,) * 3 + (-0.5,) * 3, (2.0,) * 3 + (0.5,) * 3
"""bounds of the gains and biases of R, G and B"""
LARGEST_RATIO = 20.0


class Critic(nn.Module):
    """VGG-16 with two outputs, in torchvision's order of parameters."""

    def __init__(self, width: int):
        super().__init__()
        layers, before = [], 3
        for multiple, repeats in CONVOLUTIONS:
            for _ in range(repeats):
                layers += [nn.Conv2d(before, width * multiple, 3, padding=1), nn.ReLU(inplace=True)]
                before = width * multiple
            layers.append(nn.MaxPool2d(2))
        self.normalize = ImageNetNormalize()
        self.features = nn.Sequential(*layers)
        hidden = 64 * width
        self.classifier = nn.Sequential(
            *(nn.Linear(before * POOLED**2, hidden), nn.ReLU(inplace=True), nn.Dropout()),
            *(nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout()),
            nn.Linear(hidden, 2),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None  # Conv2d's default
                nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0, 0.01)
                nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, 2), composite and photograph, of pictures (N, 3, H, W) in [0, 1] of at least 32 pixels a side."""
        features = F.adaptive_avg_pool2d(self.features(self.normalize(image)), POOLED)
        return self.classifier(features.flatten(1)).float()


class RealismCNN(Model):
    task = "harmonization"
    players = ("critic",)
    full_resolution = True

    def __init__(
        self,
        size: int = 224,
        width: int = 64,
        penalty: float = 50.0,
        iterations: int = 20,
        backbone_weights: str = "none",
    ):
        """size: height and width in pixels at which the critic looks and colours are searched. width: channels of the
        critic's first convolutions (64: 134,268,738 parameters). penalty: weight of what changes in the foreground.
        iterations: steps of the search at most. backbone_weights: what the critic's training begins with, but for its
        last layer: "none", "imagenet" (torchvision's VGG-16, as published), or the path of its state dict."""
        super().__init__()
        if size < 32:
            raise ValueError(f"realism_cnn: size = {size}, expected 32 pixels or more, which five poolings ask for")
        self.parameter_size, self.penalty, self.iterations = size, penalty, iterations
        self.critic = Critic(width)
        # torchvision's last layer has a thousand classes
        borrowed = nn.ModuleDict({"features": self.critic.features, "classifier": self.critic.classifier[:-1]})
        weights = VGG16_Weights.IMAGENET1K_V1
        published = lambda: weights.get_state_dict(progress=False, check_hash=True)
        load_backbone(borrowed, backbone_weights, published, "vgg16-397923af.pth")

    def forward(self, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [0, 1]: the composite with its foreground recoloured. Any size: colours are searched at
        `size`. Each picture is searched for by itself, so that the rest of a batch doesn't matter."""
        small = {key: self._at_size(batch[key]) for key in ("composite", "mask")}
        return self.apply_parameters(self.predict_parameters(small), batch)

    def predict_parameters(self, batch: Batch) -> Tensor:
        """(N, 6, 1, 1): gains and biases of R, G and B, the best that the search finds from its five starts."""
        training = self.critic.training
        self.critic.eval()
        try:
            with frozen(self.critic), torch.autocast(batch["composite"].device.type, enabled=False):
                parameters = [self._search(*pair) for pair in zip(batch["composite"].float(), batch["mask"].float())]
        finally:
            self.critic.train(training)
        return torch.stack(parameters)[:, :, None, None]

    def apply_parameters(self, parameters: Tensor, batch: Batch) -> Tensor:
        """(N, 3, H, W) in [0, 1] from parameters (N, 6, 1, 1) or (N, 6, H, W) and composite and mask of (H, W)."""
        gain, bias = parameters.split(3, dim=1)
        recolored = batch["composite"] * gain + bias
        return torch.lerp(batch["composite"], recolored, batch["mask"]).clamp(0, 1)

    def loss(self, player: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the critic over the composites and their photographs, and the share that it tells
        rightly."""
        self.require_player(player)
        pictures = self._at_size(torch.cat([batch["composite"], batch["real"]]))
        is_photograph = torch.arange(len(pictures), device=pictures.device) >= len(batch["composite"])
        logits = self.critic(pictures)
        loss = F.cross_entropy(logits, is_photograph.long())
        accuracy = (logits.detach().argmax(1) == is_photograph).float().mean()
        return loss, {"cross_entropy": loss.detach(), "accuracy": accuracy}

    def _search(self, composite: Tensor, mask: Tensor) -> Tensor:
        """Gains and biases (6,) for a picture (3, size, size) and its mask (1, size, size)."""
        gains = composite.new_tensor(STARTS)[:, None].expand(-1, 3)
        starts = torch.cat([gains, torch.zeros_like(gains)], dim=1)
        bounds = composite.new_tensor(LOWER), composite.new_tensor(UPPER)
        points, values = minimize_within_bounds(
            lambda point: self.energy(point, composite, mask), starts, *bounds, self.iterations
        )
        return points[values.argmin()]

    def energy(self, point: Tensor, composite: Tensor, mask: Tensor) -> Tensor:
        """What a foreground's gains and biases cost (S,), for S points (S, 6) on one picture.

        -log p(photograph) + penalty / (2 N) * (|d|^2 + rho * sum of (d_c - d_c')^2 over pairs of channels), where d is
        the change inside the mask, N three times the mask's sum, and rho the foreground's mean square over that of the
        differences of its channels, 20 at most: a colour that is nearly grey shall stay so.
        """
        gain, bias = point[:, :3, None, None], point[:, 3:, None, None]
        change = (composite * (gain - 1) + bias) * mask
        logits = self.critic((composite + change).clamp(0, 1))
        pairs = composite.roll(1, 0) - composite
        ratio = (composite.square() * mask).sum() / (pairs.square() * mask).sum().clamp(min=1e-12)
        between = (change.roll(1, 1) - change).square().sum((1, 2, 3))
        cost = change.square().sum((1, 2, 3)) + ratio.clamp(max=LARGEST_RATIO) * between
        doubt = F.cross_entropy(logits, torch.ones_like(logits[:, 0], dtype=torch.long), reduction="none")
        return doubt + self.penalty * cost / (2 * (3 * mask.sum()).clamp(min=1))

    def _at_size(self, image: Tensor) -> Tensor:
        size = (self.parameter_size, self.parameter_size)
        return image if image.shape[2:] == size else F.interpolate(image, size, mode="bilinear", antialias=True)
