"""Every key of params.yaml: its type, its bounds and what it means.

Facts of the machine (how many cores, which cluster) are not parameters, because they must not change a result: they come
from the environment (pipeline/running/cluster.py).
"""

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PlainValidator, PrivateAttr, Tag, model_validator

import models
from pipeline.data.sources.kinds import KINDS
from pipeline.errors import ParameterError
from pipeline.params.view import View

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
# names become folders and parts of command lines, so that no other character may stand in them
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$")]
MethodName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
# pipeline.irregular_masks knows them too; spelled out here so that reading parameters doesn't depend on its code
MaskKind = Literal[
    "random_walk", "strokes", "strokes_prvs", "brush", "brush_box", "brush_port", "lama_train", "lama_thin", "lama_medium",
    "lama_thick", "lama_thick_512", "lama_deepfill", "pic", "quickdraw_like", "center_box", "random_box", "half",
]  # fmt: skip
# and pipeline.scoring.protocols these
LocalizationProtocol = Literal["seam-256", "seam-256-minmax", "dirl"]
HarmonizationProtocol = Literal[
    "seam-256", "iharmony4", "dovenet", "dovenet-test", "bargainnet", "rainnet", "hdnet", "saic", "cdtnet", "pctnet", "iih", "s2am",
    "s2crnet",
]  # fmt: skip
InpaintingProtocol = Literal["seam-256", "unpasted", "edgeconnect", "lama"]
TransferMethod = Literal["reinhard", "xiao", "fecker", "pitie"]


class Block(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Range(Block):
    """Bounds of a quantity, both included."""

    low: float
    high: float

    @model_validator(mode="after")
    def _in_order(self):
        if not self.low < self.high:
            raise ValueError(f"low = {self.low} is not below high = {self.high}")
        return self


class Shares(Range):
    """Bounds of a share of an area."""

    low: Share
    high: Share


class MaskFiles(Block):
    """What is in in the mask files of a folder, where it isn't plain black and white (pipeline/mask_rule.py)."""

    mask_value: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        None,
        description="pixels of exactly this value are in (of a palette file: this class number); null for ordinary masks",
    )
    mask_channel: Literal["red", "green", "blue", "alpha"] | None = Field(
        None, description="the channel that holds the mask; null for ordinary masks"
    )


class Source(MaskFiles):
    """One origin of photographs; becomes the stage ingest@<name>."""

    kind: Literal[tuple(KINDS)] = Field(  # type: ignore[valid-type]  # which of them there are says their table
        description="folder: plain photographs without objects, at any depth, for inpainting alone"
    )
    path: str = Field(description="folder or file that the photographs come from")
    lists: dict[Literal["train", "val", "test"], str] | None = Field(
        None,
        description="kind folder: files within `path` that list the photographs of each split, where their names don't say it",
    )
    longest_side: Count | None = Field(
        None, description="larger photographs are shrunk to this many pixels; null keeps them"
    )
    shortest_side: Count = Field(64, description="photographs with a shorter side are rejected")
    max_megapixels: Positive = Field(50.0, description="larger photographs are refused before they are decoded")
    validation_share: Share = Field(0.1, description="of the photographs; unused where the source has its own split")
    test_share: Share = Field(0.1, description="of the photographs; unused where the source has its own split")
    max_rejected: Share = Field(0.0, description="share of unusable photographs above which the stage fails")
    max_rejected_objects: Share = Field(0.05, description="share of unusable objects above which the stage fails")
    crowd_objects: Literal["reject", "use"] = Field(
        "reject",
        description="what COCO marks as iscrowd: 1, groups drawn as one region; use them where a brush tool marks single objects so",
    )
    near_copies: bool = Field(
        True, description="keep photographs that look the same (resized, saved again) in one split, as equal ones are"
    )

    @model_validator(mode="after")
    def _keys_are_of_the_kind(self):
        for key in sorted({key for kind in KINDS.values() for key in kind.takes} - set(KINDS[self.kind].takes)):
            if getattr(self, key) != type(self).model_fields[key].default:
                takers = ", ".join(name for name, kind in KINDS.items() if key in kind.takes)
                raise ValueError(f"{key} is read by kind {takers}; kind {self.kind} has no use for it")
        if self.lists == {}:
            raise ValueError("lists names no list; leave it out, or name one for each split")
        return self

    @model_validator(mode="after")
    def _leaves_some_to_train(self):
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"validation_share + test_share = {self.validation_share + self.test_share:g} leaves nothing to train on"
            )
        return self


class Subset(Block):
    """One sub-dataset of composites that is made from photographs; becomes the stage synthesize@<name>."""

    # "iharmony4" is that of ListedSubset, and stands here to be named where a recipe is unknown
    recipe: Literal["transfer", "renditions", "day2night", "iharmony4"] = Field(
        description="transfer: recolour after a reference object (HCOCO, HFlickr); renditions: foreground of another "
        "rendition of the photograph (HAdobe5k); day2night: of another moment (Hday2night)"
    )
    source: Name = Field(description="source of the photographs")
    references: Name = Field(description="source of the reference objects, or of the other renditions")
    prefix: Annotated[str, Field(pattern=r"^[a-z]$")] = Field(description="first letter of image names: c, f, a, d")
    composites_per_object: Annotated[float, Field(ge=1)] = Field(description="mean number of composites of one object")
    max_per_object: Count
    same_category: bool = Field(description="references of the object's own category only")

    @model_validator(mode="after")
    def _mean_below_maximum(self):
        if self.composites_per_object > self.max_per_object:
            raise ValueError(
                f"composites_per_object = {self.composites_per_object:g} is above max_per_object = {self.max_per_object}"
            )
        return self


class ListedSubset(MaskFiles):
    """Composites of the real iHarmony4, trained on and tested where they lie; becomes the stage iharmony4@<name>."""

    recipe: Literal["iharmony4"]
    path: str = Field(
        description="one sub-dataset's folder (iHarmony4/HCOCO), which tables call by the name of this block, or the whole folder, "
        "whose sub-datasets keep their names"
    )
    validation_share: Share = Field(
        0.02,
        description="of the photographs of the training list (in Hday2night: of its cameras), which are kept out of training",
    )
    disjoint: bool = Field(
        False,
        description="leave those composites out of training whose photograph (in Hday2night: whose camera) is in the test list too",
    )
    max_megapixels: Positive = Field(50.0, description="larger pictures are refused before they are decoded")
    max_rejected: Share = Field(0.0, description="share of unusable composites above which the stage fails")


_LISTED, _MADE = "[listed]", "[made]"
SUBSET_KINDS: dict[str, type[Block]] = {_LISTED: ListedSubset, _MADE: Subset}
"""By the parts of a place in pydantic's errors that say which kind of sub-dataset was read."""


def _kind_of_subset(value: Any) -> str:
    recipe = value.get("recipe") if isinstance(value, dict) else getattr(value, "recipe", None)
    return _LISTED if recipe == "iharmony4" else _MADE


AnySubset = Annotated[
    Annotated[ListedSubset, Tag(_LISTED)] | Annotated[Subset, Tag(_MADE)], Discriminator(_kind_of_subset)
]


class Filters(Block):
    """Which candidates become composites (docs/protocol.md)."""

    foreground_ratio: Shares
    min_pixels: Count = Field(description="fewest pixels of a foreground and of a reference object")
    colour_difference: Range = Field(description="mean CIE76 inside the mask, composite against real")
    max_clipped: Share = Field(description="share of foreground pixels newly clipped to 0 or 255 in a channel")
    max_hue_rotation: Positive = Field(description="mean hue rotation in degrees of pixels with chroma above 10")
    max_area_ratio: Positive = Field(description="of reference object to foreground, either way round")
    attempts: Count = Field(description="draws of reference and method before an object's composite is given up")


class Rendering(Block):
    """What the sub-datasets share."""

    methods: list[TransferMethod] = Field(min_length=1)
    filters: Filters
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    jpeg_subsampling: Literal["4:4:4", "4:2:2", "4:2:0"]


class Composites(Block):
    subsets: dict[Name, AnySubset]
    rendering: Rendering | None = Field(None, description="needed where sub-datasets are made")


class RealSet(MaskFiles):
    """Real composites, or iHarmony4 itself, as a further test set; becomes the stage real@<name>."""

    kind: Literal["iharmony4", "pairs"] = Field(
        description="iharmony4: a folder in iHarmony4's layout with its lists, of which the test lists are scored; "
        "pairs: DIH99, RealHM, or any folder of composites and masks"
    )
    path: str = Field(description="folder that the composites lie in")
    max_megapixels: Positive = Field(description="larger pictures are refused before they are decoded")
    max_rejected: Share = Field(description="share of unusable composites above which the stage fails")


class MasksPerBucket(Block):
    train: Count
    test: Count


class IrregularMasks(MaskFiles):
    folder: str | None = Field(description="a folder of masks to use in place of generated ones, or null")
    polarity: Literal["detect", "white", "black"] = Field(description="which value is the hole in that folder")
    kinds: list[MaskKind] = Field(min_length=1)
    border: Literal["with", "without", "both"] = Field(description="may holes touch the border")
    per_bucket: MasksPerBucket


class Localization(Block):
    max_foreground: Share = Field(description="composites with a larger foreground are left out (the le50 lists)")


class MaskAugmentation(Block):
    """How the masks of training are varied at each draw (pipeline/data/mask_transforms.py); test masks never are."""

    flips: bool = Field(description="left-right and up-down, each every other time")
    rotations: bool = Field(description="every other time by a multiple of 90 degrees, else by 10 to 45 degrees")
    dilation: Annotated[int, Field(ge=0)] = Field(
        description="largest diameter in pixels of the ellipse that holes grow by; 0 for none"
    )
    crop: bool = Field(description="enlarge a window of 50 to 100% of the side")


class Inpainting(Block):
    source: Name = Field(description="source of the photographs whose holes are filled")
    mask_augmentation: MaskAugmentation


class Training(Block):
    """What all networks share."""

    device: Literal["cpu", "gpu", "auto"]
    precision: Literal["fp32", "bf16"]
    workers: Count = Field(description="processes (DDP) of one network's training; batches are shared out among them")
    threads: Count = Field(
        2,
        description="threads of a training by one worker on a CPU, which takes so many cores; sums, and so weights, depend on it. Several workers have one thread each",
    )
    validation_images: Count = Field(
        description="at most so many validation images, evenly over the set, are scored after an epoch"
    )
    repeats: Count = Field(
        1,
        description="each network is trained from so many seeds; tables then hold means over them and their spread. Raising it "
        "trains the further ones alone",
    )
    samples_every: Annotated[int, Field(ge=0)] = Field(
        5,
        description="epochs between pictures of what a network in training makes of a few validation images, drawn after the last "
        "too, for `python -m commands.watch`; 0 for none. No result depends on it and nothing runs anew for it",
    )


class Schedule(Block):
    """Learning rate over a phase; milestones and shares are fractions of its steps."""

    name: Literal["constant", "step", "linear", "cosine"]
    warmup: Share = 0.0
    start: Share = Field(0.5, description="linear: where the decay to zero begins")
    milestones: list[Share] = Field([], description="step: where the rate is multiplied by factor")
    factor: Positive = 0.1


class Optimization(Block):
    optimizer: Literal["adam", "adamw", "sgd"]
    learning_rate: Positive
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Positive | None = None
    schedule: Schedule


class PhaseOverride(Block):
    epochs: Annotated[int, Field(ge=0)]
    learning_rate: Positive


class PlayerOverride(Block):
    learning_rate: Positive


class Augmentation(Block):
    flip: bool
    crop: Shares | None = Field(description="area share of a random resized crop, or null")


class ModelTraining(Block):
    """How one network is trained. In params.yaml a block may name a `recipe` and then states only what differs from it;
    what is read here is the whole, with the recipe's values filled in."""

    recipe: str | None = Field(
        None, description="name of an entry of `recipes`, whose values hold where the block states none"
    )
    epochs: Annotated[int, Field(ge=0)] = Field(description="of the first phase; further phases have their own")
    batch_size: Count
    draws: Count = Field(
        1,
        description="how often an epoch takes each training image, each time with a crop, flip and hole of its own: few photographs "
        "then make an epoch worth validating",
    )
    max_steps_per_epoch: Count | None = None
    optimization: Optimization
    phases: dict[str, PhaseOverride] = Field({}, description="epochs and learning rate of the phases after the first")
    players: dict[str, PlayerOverride] = Field({}, description="learning rates of single players")
    augmentation: Augmentation
    validate_every: Count = 1
    keep: Literal["best", "last"] = Field("best", description="which weights are used, by validation score or the last")
    start_from: str | None = Field(
        None,
        description="safetensors that training begins with in place of random weights; what it lacks of a discriminator is drawn",
    )
    channels_last: bool = Field(
        False, description="train in the memory format that puts channels last: often faster, equal but for rounding"
    )
    compile: bool = Field(
        False,
        description="train by torch.compile: equal but for rounding, and worth its start of minutes in long trainings alone "
        "(docs/running.md); a CPU needs a C++ compiler for it, a GPU triton",
    )


class ModelBlock(Block):
    """One method; the key is the name of its file. `hyperparameters` go to its constructor; what is left out takes the
    published value (`python -m commands.graph --explain NAME` prints them).

    With `outputs` the method was run elsewhere: the key is a name of one's own, and a folder of files holds what it made.
    """

    hyperparameters: dict[str, Any] = {}
    training: ModelTraining | None = None
    weights: str | None = Field(
        None,
        description="safetensors trained elsewhere, as commands.import_weights writes them: inference without training",
    )
    outputs: str | None = Field(
        None, description="folder of pictures made elsewhere, named after the images (pipeline/scoring/outputs.py)"
    )
    task: Literal["localization", "harmonization", "inpainting"] | None = Field(
        None, description="of `outputs`, and given with them alone"
    )
    outputs_side: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="side in pixels of square `outputs` that have neither image_size nor the size of the originals",
    )
    outputs_filter: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = Field(
        "bilinear", description="Pillow's filter that brings `outputs` of another size to image_size"
    )
    n_parameters: Annotated[int, Field(ge=0)] | None = Field(
        None, description="of the network that made `outputs`, if known"
    )

    @model_validator(mode="after")
    def _one_origin(self):
        given = self.model_fields_set
        if self.outputs is not None:
            for key in ("hyperparameters", "training", "weights"):
                if key in given:
                    raise ValueError(f"outputs were made elsewhere, so {key} can't be given with them")
            if self.task is None:
                raise ValueError(f"outputs need a task, one of {', '.join(models.TASKS)}")
            return self
        for key in ("task", "outputs_side", "outputs_filter", "n_parameters"):
            if key in given:
                raise ValueError(f"{key} belongs to outputs, a folder, which is missing")
        if self.weights is not None and self.training is not None:
            raise ValueError(
                "weights are used as they are and training makes its own; training.start_from begins with a file"
            )
        return self


def _resolution(value: Any) -> int | str:
    if value == "original" or (isinstance(value, int) and not isinstance(value, bool) and value >= 32):
        return value
    raise ValueError('expected a side of at least 32 pixels, or "original"')


Resolution = Annotated[Any, PlainValidator(_resolution)]


class Inference(Block):
    batch_size: Count = Field(description="images at a time; of larger pictures as many fewer as they have more pixels")
    resolutions: list[Resolution] = Field(
        description="further sides in pixels at which the test split is predicted and scored; originals with a shorter side "
        'below are left out there, and counted. "original": at each picture\'s own size, one at a time. [] for none'
    )

    samples: Count = Field(
        1,
        description="answers drawn for each test image by networks that can draw several; scores of the first, the best and the mean are compared",
    )

    @model_validator(mode="after")
    def _each_once(self):
        return _refuse_twice("resolutions", self.resolutions, self)


class Protocols(Block):
    """Names of pipeline/scoring/protocols/ under which the same predictions are scored side by side; null for all of a task's,
    [] for none. seam-256 is always among them: it is what the others are held against."""

    localization: list[LocalizationProtocol] | None = None
    harmonization: list[HarmonizationProtocol] | None = None
    inpainting: list[InpaintingProtocol] | None = None

    @model_validator(mode="after")
    def _each_once(self):
        for task in models.TASKS:
            _refuse_twice(task, getattr(self, task) or [], self)
        return self


def _refuse_twice(key: str, values: list, block):
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise ValueError(f"{key} names {twice[0]} twice")
    return block


class Perceptual(Block):
    """Weights of LPIPS and FID; null: without that metric. Only the published files are taken (pipeline/scoring/perceptual.py)."""

    lpips: str | None = Field(
        default=None,
        description="torchvision's alexnet-owt-7be5be79.pth or vgg16-397923af.pth, which decides the kind of LPIPS",
    )
    fid: str | None = Field(default=None, description="torch-fidelity's weights-inception-2015-12-05-6726825d.pth")
    fid_minimum: Annotated[int, Field(ge=2)] = Field(
        default=2049,
        description="fewest test photographs of a FID; at 2048 and below the covariance of the 2048 features is singular",
    )


class Evaluation(Block):
    bootstrap: Count = Field(description="resamples of an interval")
    confidence: Annotated[float, Field(gt=0, lt=1)]
    protocols: Protocols
    perceptual: Perceptual = Perceptual()


class Report(Block):
    sheet_rows: Count = Field(description="images per contact sheet")


class Params(Block):
    seed: Annotated[int, Field(ge=0)]
    image_size: Annotated[int, Field(ge=32)] = Field(description="side in pixels that networks see and tables score")
    sources: dict[Name, Source] = {}
    composites: Composites | None = Field(None, description="needed by localization and harmonization")
    real_sets: dict[Name, RealSet] = {}
    irregular_masks: IrregularMasks | None = Field(None, description="needed by inpainting")
    localization: Localization | None = Field(None, description="needed by localization")
    inpainting: Inpainting | None = Field(None, description="needed by inpainting")
    training: Training
    recipes: dict[Name, dict[str, Any]] = Field({}, description="training blocks that several networks share, by name")
    models: dict[MethodName, ModelBlock] = Field(min_length=1)
    inference: Inference
    evaluation: Evaluation
    report: Report

    # models.<name>: the places below `recipes` that its training takes values from
    _recipe_leaves: dict[str, list[str]] = PrivateAttr(default_factory=dict)
    # models.<name>: the keys that its block in the file states
    _stated: dict[str, set[str]] = PrivateAttr(default_factory=dict)

    def read_of(self, name: str, key: str) -> list[str]:
        """The places of params.yaml that hold `key` ("models.{model}" or a part of it) of one method, as DVC tracks them.

        A training that names a recipe also reads those leaves of the recipe that its block doesn't override.
        A key that the block leaves out is no place in the file, so the whole block is tracked.
        """
        place, block = key.format(model=name), f"models.{name}"
        inside = place.removeprefix(block).lstrip(".").split(".")[0]
        stated = place if not inside or inside in self._stated.get(name, ()) else block
        return [stated, *(self._recipe_leaves.get(name, ()) if inside in ("", "training") else ())]

    def only(self, declared: tuple[str, ...], **names: str) -> View:
        """The part that a stage declares in its PARAMS, such as ("seed", "models.{model}"), with names filled in.

        Raises ParameterError when the file has no such key.
        """
        places = [key.format(**names).split(".") for key in declared]
        for place in places:
            value = self
            for depth, key in enumerate(place):
                known = list(value) if isinstance(value, dict) else list(getattr(type(value), "model_fields", ()))
                if key not in known:
                    above = ".".join(place[:depth]) or "params.yaml"
                    near = difflib.get_close_matches(key, known, n=1)
                    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}"
                    raise ParameterError(f"{above} has no {key!r}; {hint}")
                value = value[key] if isinstance(value, dict) else getattr(value, key)
        return View(self, places)

    @property
    def tasks(self) -> list[str]:
        """The tasks that have a method, in the order of the story."""
        return [task for task in models.TASKS if self.models_of(task)]

    @property
    def subsets(self) -> dict[str, "Subset | ListedSubset"]:
        """The sub-datasets of composites, by name; none without composites."""
        return self.composites.subsets if self.composites is not None else {}

    def task_of(self, name: str) -> str:
        """The task of a method of the file, whether it is one of this repository or made its outputs elsewhere."""
        return self.models[name].task or models.task_of(name)

    def models_of(self, task: str) -> list[str]:
        """Names of the methods of one task, in the order of the file."""
        return [name for name in self.models if self.task_of(name) == task]
