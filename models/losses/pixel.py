"""Losses on pixels that know about a region."""

from torch import Tensor


def hole_and_valid_l1(prediction: Tensor, real: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute error inside and outside the hole, each divided by the number of all elements, so that a small hole
    weighs little (L_hole and L_valid of PConv and RFR-Net).

    prediction, real: (N, C, H, W); hole: (N, 1, H, W), 1 = hole.
    """
    error = (prediction - real).abs()
    inside = (error * hole).mean()
    return inside, error.mean() - inside


def total_variation(image: Tensor, region: Tensor | None = None) -> Tensor:
    """Mean absolute difference of horizontal neighbours plus that of vertical ones.

    image: (N, C, H, W); region: (N, 1, H, W), 1 = in; with it, only pairs with both pixels in count, while the mean
    still goes over all pairs (L_tv of PConv).
    """
    total = image.new_zeros(())
    for axis in (2, 3):
        difference = image.diff(dim=axis).abs()
        if region is not None:
            length = region.shape[axis]
            difference = difference * region.narrow(axis, 1, length - 1) * region.narrow(axis, 0, length - 1)
        total = total + difference.mean()
    return total
