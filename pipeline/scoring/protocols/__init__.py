"""The public evaluation protocols by name: one prediction scored under all of them side by side.

A protocol is a record in the file of its task; what differs between public evaluators is a field of it.

What no record can repeat, because it happens before or around the scoring: the input a network was given (each code
resizes it its own way), data sets stored again in smaller size (RainNet, HDNet, saic), dropout left on (DoveNet),
scores of whole batches (S2CRNet's training log, AustNet's validation), epochs chosen on the test set (HDNet). And
predictions as inference saves them are rounded to 8 bits, which leaves truncation and unrounded scores nothing to act
on. What of this concerns a record, its `caveat` says.
"""

from collections.abc import Sequence

from pipeline.scoring.protocols import harmonization, inpainting, localization
from pipeline.scoring.protocols.rows import SEAM, Row

Protocol = localization.Protocol | harmonization.Protocol | inpainting.Protocol

RECORDS: dict[str, tuple[Protocol, ...]] = {
    "localization": localization.PROTOCOLS,
    "harmonization": harmonization.PROTOCOLS,
    "inpainting": inpainting.PROTOCOLS,
}


def chosen(task: str, names: Sequence[str] | None) -> tuple[Protocol, ...]:
    """The task's records of these names, in the order of this file, seam-256 always among them; None: all; []: none."""
    if names is not None and not names:
        return ()
    return tuple(record for record in RECORDS[task] if names is None or record.name in names or record.name == SEAM)


def at_own_size(records: tuple[Protocol, ...]) -> tuple[Protocol, ...]:
    """Those of the records that are of pictures at their own sizes too; with seam-256, none for nothing beside it."""
    further = tuple(
        record for record in records if isinstance(record, harmonization.Protocol) and record.full_resolution
    )
    return tuple(record for record in records if record.name == SEAM or record in further) if further else ()


__all__ = ["RECORDS", "SEAM", "Row", "at_own_size", "chosen", "harmonization", "inpainting", "localization"]
