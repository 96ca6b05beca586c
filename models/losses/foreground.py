"""Errors of a harmonized image, divided by the foreground's area so that small objects weigh as much as large ones."""

from torch import Tensor


def foreground_normalized(error: Tensor, mask: Tensor, least_area: float = 1.0) -> Tensor:
    """The error summed per image and divided by channels x max(least_area, area of the mask); mean over images, a scalar.

    error: (N, C, H, W), at least 0, of every pixel that is to count; mask: (N, 1, H, W), 1 = foreground. least_area, in
    pixels, keeps the error of a tiny or missing foreground from being blown up.
    """
    area = mask.sum((1, 2, 3)).clamp(min=least_area)
    return (error.sum((1, 2, 3)) / (error.shape[1] * area)).mean()


def foreground_mse(prediction: Tensor, real: Tensor, mask: Tensor, least_area: float = 100.0) -> Tensor:
    """Squared error over the whole image by the foreground's area (Zhu et al. 2022, eq. 8), which is fMSE where the
    prediction is pasted; a scalar.

    prediction, real: (N, 3, H, W); mask: (N, 1, H, W), 1 = foreground; least_area, in pixels, is the paper's A_min.
    """
    return foreground_normalized((prediction - real).square(), mask, least_area)
