"""L_seg, the loss that DIRL and its successors put on every mask: BCE + (1 - SSIM) + (1 - soft IoU).

Liang, Niu, Zhang, "Inharmonious Region Localization", ICME 2021, and its public code. Published are the three terms,
their weights of 1 and the SSIM window. Ours are the 1e-6 in the IoU's denominator and the clamp of probabilities.
MadisNet, a successor of DIRL, sets the SSIM weight to 0.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses.structural_similarity import ssim_map

SMALLEST = 1e-6


def soft_iou(probability: Tensor, mask: Tensor) -> Tensor:
    """Intersection over union of soft masks (N, 1, H, W), per image: (N,). An empty mask gives 0."""
    intersection = (probability * mask).sum((1, 2, 3))
    union = probability.sum((1, 2, 3)) + mask.sum((1, 2, 3)) - intersection
    return intersection / (union + SMALLEST)


@dataclass(frozen=True)
class RegionLoss:
    """bce · BCE + ssim · (1 - SSIM) + iou · (1 - soft IoU). A term of weight 0 is not computed.

    Raises ValueError if a weight is negative or all are 0.
    """

    bce: float = 1.0
    ssim: float = 1.0
    iou: float = 1.0

    def __post_init__(self):
        if min(self.bce, self.ssim, self.iou) < 0 or max(self.bce, self.ssim, self.iou) == 0:
            raise ValueError(
                f"bce_weight {self.bce}, ssim_weight {self.ssim}, iou_weight {self.iou}: "
                "expected none below 0 and one at least above 0"
            )

    def __call__(self, prediction: Tensor, mask: Tensor, logits: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss and its unweighted terms, detached, by the names bce, ssim and iou.

        `prediction` (N, 1, H, W): probabilities in [0, 1], or logits. `mask` (N, 1, H, W) in [0, 1], 1 = foreground.
        Computed in float32 also under autocast. Raises ValueError when the shapes differ.
        """
        if prediction.shape != mask.shape:
            raise ValueError(f"prediction {tuple(prediction.shape)} and mask {tuple(mask.shape)} differ in shape")
        with torch.autocast(prediction.device.type, enabled=False):
            prediction, mask = prediction.float(), mask.float()
            # a probability of exactly 0 or 1 has no finite cross-entropy; logits need no clamp
            probability = prediction.sigmoid() if logits else prediction.clamp(SMALLEST, 1 - SMALLEST)
            terms = {}
            if self.bce:
                cross_entropy = F.binary_cross_entropy_with_logits if logits else F.binary_cross_entropy
                terms["bce"] = cross_entropy(prediction if logits else probability, mask)
            if self.ssim:
                terms["ssim"] = 1 - ssim_map(probability, mask).mean()
            if self.iou:
                terms["iou"] = 1 - soft_iou(probability, mask).mean()
            total = sum(getattr(self, name) * term for name, term in terms.items())
        return total, {name: term.detach() for name, term in terms.items()}
