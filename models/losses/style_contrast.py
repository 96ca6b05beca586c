"""Contrastive style loss: a harmonized foreground shall look like the real one, and unlike recoloured ones.

Hang et al., "SCS-Co: Self-Consistent Style Contrastive Learning for Image Harmonization", CVPR 2022, as PCT-Net's
released code uses it. Style is what VGG-16 says of a region when the rest of the picture is zero.

As released, the distances to the negatives scale the loss and pass no gradient on. Departures from that code: the Gram
matrices are products of channels summed over positions, as the paper has them, where the code multiplies positions;
recolourings map mean and covariance of CIELab linearly, luminance included, where the code fits an arctangent curve to
the luminance; and negatives have the range of the other pictures, where the code subtracts a half and doubles.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Extract = Callable[[Tensor], Tensor]
"""pictures (N, 3, H, W) -> features (N, C, h, w)"""

TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.950456, 1.0, 1.088754)
LEAST_VARIANCE = 7.5
"""of a channel of CIELab, so that a flat picture isn't stretched without bounds"""


def style_contrast(extract: Extract, drawn: Tensor, real: Tensor, mask: Tensor, negatives: list[Tensor]) -> Tensor:
    """The sum of two ratios d(drawn, real) / (d(drawn, real) + sum over negatives d(drawn, negative)), a scalar in [0,
    2].

    d is the mean absolute difference: in the first ratio of the foregrounds' features, in the second of their Gram
    matrices with the real background's features. drawn, real and each negative: (N, 3, H, W) in the range that
    `extract` wants; mask: (N, 1, H, W), 1 = foreground.
    """
    foreground = extract(drawn * mask)
    with torch.no_grad():
        wanted, background = extract(real * mask), extract(real * (1 - mask))
        unwanted = [extract(negative * mask) for negative in negatives]
    total = torch.zeros((), device=drawn.device)
    with torch.autocast(drawn.device.type, enabled=False):
        foreground, wanted, background = foreground.float(), wanted.float(), background.float()
        unwanted = [features.float() for features in unwanted]
        for represent in (lambda features: features, lambda features: _gram(features, background)):
            here = represent(foreground)
            near = (here - represent(wanted)).abs().mean()
            far = sum((here.detach() - represent(features)).abs().mean() for features in unwanted)
            total = total + near / (near + far + 1e-8)
    return total


def _gram(first: Tensor, second: Tensor) -> Tensor:
    """(N, C, C): products of channels, averaged over positions, from two feature maps (N, C, h, w)."""
    first, second = first.flatten(2), second.flatten(2)
    return first @ second.transpose(1, 2) / first.shape[2]


@torch.no_grad()
def recolored_after_others(real: Tensor, mask: Tensor, count: int) -> list[Tensor]:
    """`count` negatives (N, 3, H, W) in [0, 1]: each picture's foreground recoloured after another picture of the
    batch, a different one in each negative. Fewer when the batch has fewer others. The order is drawn from torch's
    generator.

    real: (N, 3, H, W) in [0, 1]; mask: (N, 1, H, W), 1 = foreground. Mean and covariance in CIELab are those of the
    other picture, by the linear map of Pitie and Kokaram 2007 that moves colours least.
    """
    number = len(real)
    with torch.autocast(real.device.type, enabled=False):
        lab = to_lab(real.float()).flatten(2)
        mean = lab.mean(2, keepdim=True)
        covariance = (lab - mean) @ (lab - mean).transpose(1, 2) / lab.shape[2]
        variances = covariance.diagonal(dim1=1, dim2=2)
        covariance = covariance + torch.diag_embed(variances.clamp(min=LEAST_VARIANCE) - variances)
        negatives = []
        for shift in (torch.randperm(number - 1)[:count] + 1).tolist():
            other = torch.roll(torch.arange(number), shift).to(real.device)
            moved = _least_map(covariance, covariance[other]) @ (lab - mean) + mean[other]
            negatives.append(torch.lerp(real, from_lab(moved.view(real.shape)).to(real.dtype), mask))
    return negatives


def _least_map(source: Tensor, target: Tensor) -> Tensor:
    """The symmetric matrices T (N, 3, 3) with T source T = target, for covariances (N, 3, 3)."""
    root, inverse = _powers(source)
    return inverse @ _powers(root @ target @ root)[0] @ inverse


def _powers(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Square root of symmetric matrices (N, 3, 3), and its inverse. Eigenvalues below 1e-6 are raised to it."""
    values, vectors = torch.linalg.eigh(matrix)
    roots = values.clamp(min=1e-6).sqrt()
    return tuple((vectors * scale.unsqueeze(1)) @ vectors.transpose(1, 2) for scale in (roots, 1 / roots))


def to_lab(image: Tensor) -> Tensor:
    """sRGB (N, 3, H, W) in [0, 1] -> CIELab under D65: L in [0, 100], a and b in about [-110, 110]."""
    linear = torch.where(image > 0.04045, ((image.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, image / 12.92)
    xyz = torch.einsum("ij,njhw->nihw", image.new_tensor(TO_XYZ), linear) / image.new_tensor(WHITE).view(1, 3, 1, 1)
    x, y, z = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856) ** (1 / 3), 7.787 * xyz + 4 / 29).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def from_lab(lab: Tensor) -> Tensor:
    """CIELab (N, 3, H, W) -> sRGB, clipped to [0, 1]."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    scaled = torch.stack([y + a / 500, y, y - b / 200], dim=1)
    xyz = torch.where(scaled > 6 / 29, scaled**3, (scaled - 4 / 29) / 7.787) * lab.new_tensor(WHITE).view(1, 3, 1, 1)
    linear = torch.einsum("ij,njhw->nihw", torch.linalg.inv(lab.new_tensor(TO_XYZ)), xyz).clamp(0, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055, 12.92 * linear)
