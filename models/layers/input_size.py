"""What a network asks of its input's size, refused in words that do the arithmetic."""

from torch import Tensor


class NotDivisible(ValueError):
    """A height or width that is no multiple of `by`; whoever holds the image can pad it and ask again."""

    def __init__(self, message: str, by: int | None = None):
        super().__init__(message)
        self.by = by


def require_divisible(image: Tensor, by: int) -> None:
    """Raise NotDivisible, a ValueError, unless height and width of (N, C, H, W) are multiples of `by`, above 0."""
    for name, size in zip(("height", "width"), image.shape[-2:]):
        if size == 0 or size % by:
            raise NotDivisible(f"{name} {size} is not divisible by {by}; pad to {max(by, -(-size // by) * by)}", by)


def require_statistics(image: Tensor, stride: int) -> None:
    """Raise ValueError if a batch (N, C, H, W) leaves one value per channel at 1/`stride` of its size.

    Batch normalization has no variance of one value; only training asks for it.
    """
    count, _, height, width = image.shape
    if count * -(-height // stride) * -(-width // stride) < 2:
        raise ValueError(
            f"training on one image of {height}x{width} leaves batch normalization a single value per channel at "
            f"1/{stride} of the size; give it a batch of 2 or a side above {stride}"
        )
