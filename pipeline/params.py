"""params.yaml, read once into typed objects.

`load()` validates the whole file, whichever part a stage then uses, so that a slip anywhere stops every stage
before it touches anything. Facts of the machine (how many cores, which cluster) are not parameters, because
they must not change a result: they come from the environment (pipeline/running/cluster.py).
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

import models
from pipeline.errors import ParameterError

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$")]
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


class Source(Block):
    """One origin of photographs; becomes the stage ingest@<name>."""

    kind: Literal["bundled", "coco", "fivek", "timelapse"]
    path: str = Field(description="folder or file that the photographs come from")
    longest_side: Count | None = Field(description="larger photographs are shrunk to this many pixels; null keeps them")
    shortest_side: Count = Field(description="photographs with a shorter side are rejected")
    max_megapixels: Positive = Field(description="larger photographs are refused before they are decoded")
    validation_share: Share = Field(description="of the photographs; unused where the source has its own split")
    test_share: Share = Field(description="of the photographs; unused where the source has its own split")
    max_rejected: Share = Field(description="share of unusable photographs above which the stage fails")

    @model_validator(mode="after")
    def _leaves_some_to_train(self):
        if self.validation_share + self.test_share >= 1:
            raise ValueError(f"validation_share + test_share = {self.validation_share + self.test_share:g} leaves nothing to train on")
        return self


class Subset(Block):
    """One sub-dataset of composites; becomes the stage synthesize@<name>."""

    recipe: Literal["transfer", "renditions", "day2night"] = Field(
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
            raise ValueError(f"composites_per_object = {self.composites_per_object:g} is above max_per_object = {self.max_per_object}")
        return self


class Filters(Block):
    """Which candidates become composites (specs/iharmony4_synthesis.md 3.5)."""

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
    subsets: dict[Name, Subset]
    rendering: Rendering


class RealSet(Block):
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


class IrregularMasks(Block):
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
    dilation: Annotated[int, Field(ge=0)] = Field(description="largest diameter in pixels of the ellipse that holes grow by; 0 for none")
    crop: bool = Field(description="enlarge a window of 50 to 100% of the side")


class Inpainting(Block):
    source: Name = Field(description="source of the photographs whose holes are filled")
    mask_augmentation: MaskAugmentation


class Training(Block):
    """What all networks share."""

    device: Literal["cpu", "gpu", "auto"]
    precision: Literal["fp32", "bf16"]
    workers: Count = Field(description="processes (DDP) of one network's training; batches are shared out among them")
    validation_images: Count = Field(description="at most so many validation images, evenly over the set, are scored after an epoch")


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
    epochs: Annotated[int, Field(ge=0)] = Field(description="of the first phase; further phases have their own")
    batch_size: Count
    max_steps_per_epoch: Count | None = None
    optimization: Optimization
    phases: dict[str, PhaseOverride] = Field({}, description="epochs and learning rate of the phases after the first")
    players: dict[str, PlayerOverride] = Field({}, description="learning rates of single players")
    augmentation: Augmentation
    validate_every: Count = 1
    keep: Literal["best", "last"] = Field("best", description="which weights are used, by validation score or the last")
    channels_last: bool = Field(
        False, description="train in the memory format that puts channels last: often faster, equal but for rounding"
    )


class ModelBlock(Block):
    """One method; the key is the name of its file. `hyperparameters` go to its constructor."""

    hyperparameters: dict[str, Any]
    training: ModelTraining | None = None


class Inference(Block):
    batch_size: Count = Field(description="images at a time; of larger pictures as many fewer as they have more pixels")
    resolutions: list[Annotated[int, Field(ge=32)]] = Field(
        description="further sides in pixels at which the test split is predicted and scored; originals with a shorter side "
        "below are left out there, and counted. [] for none"
    )

    @model_validator(mode="after")
    def _each_once(self):
        return _refuse_twice("resolutions", self.resolutions, self)


class Protocols(Block):
    """Names of pipeline/scoring/protocols/ under which the same predictions are scored side by side; null for all of a task's,
    [] for none. seam-256 is always among them: it is what the others are held against."""

    localization: list[LocalizationProtocol] | None
    harmonization: list[HarmonizationProtocol] | None
    inpainting: list[InpaintingProtocol] | None

    @model_validator(mode="after")
    def _each_once(self):
        for task in models.TASKS:
            _refuse_twice(task, getattr(self, task) or [], self)
        return self


def _refuse_twice(key: str, values: list, block):
    if twice := sorted({one for one in values if values.count(one) > 1}):
        raise ValueError(f"{key} names {twice[0]} twice")
    return block


class Evaluation(Block):
    bootstrap: Count = Field(description="resamples of an interval")
    confidence: Annotated[float, Field(gt=0, lt=1)]
    protocols: Protocols


class Report(Block):
    sheet_rows: Count = Field(description="images per contact sheet")


class Params(Block):
    seed: Annotated[int, Field(ge=0)]
    image_size: Annotated[int, Field(ge=32)] = Field(description="side in pixels that networks see and tables score")
    sources: dict[Name, Source] = Field(min_length=1)
    composites: Composites
    real_sets: dict[Name, RealSet] = Field(description="may be empty")
    irregular_masks: IrregularMasks
    localization: Localization
    inpainting: Inpainting
    training: Training
    models: dict[str, ModelBlock]
    inference: Inference
    evaluation: Evaluation
    report: Report

    def only(self, declared: tuple[str, ...], **names: str) -> "View":
        """The part that a stage declares in its PARAMS, such as ("seed", "models.{model}"), with names filled in.

        Raises ParameterError when the file has no such key.
        """
        places = [one.format(**names).split(".") for one in declared]
        for place in places:
            value = self
            for depth, key in enumerate(place):
                known = list(value) if isinstance(value, dict) else list(type(value).model_fields)
                if key not in known:
                    above = ".".join(place[:depth]) or "params.yaml"
                    near = difflib.get_close_matches(key, known, n=1)
                    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
                    raise ParameterError(f"{above} has no {key!r}; {hint}")
                value = value[key] if isinstance(value, dict) else getattr(value, key)
        return View(self, places)

    def models_of(self, task: str) -> list[str]:
        """Names of the methods of one task, in the order of the file."""
        return [name for name in self.models if models.task_of(name) == task]


def load(path: str | Path = "params.yaml") -> Params:
    """Read and validate a parameter file.

    Raises ParameterError with one line: the file, the key, what was found and what was expected.
    """
    path = Path(path)
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text())
    except FileNotFoundError:
        raise ParameterError(f"{path} is missing; `make preset NAME=embedded` writes the default") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} can't be read: {error}") from None
    except YAMLError as error:
        raise ParameterError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    try:
        params = Params.model_validate(content)
    except ValidationError as error:
        raise ParameterError(f"{path}: {_one_line(error)}") from None
    _check_names(path, params)
    return params


def _one_line(error: ValidationError) -> str:
    # a misspelled key is also reported as missing; the spelling is what the reader wants to hear of
    first, *others = sorted(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    place = [str(part) for part in first["loc"] if part != "[key]"]
    key = ".".join(place) or "the file"
    found = first["input"]
    shown = f" = {found!r}" if isinstance(found, (str, int, float, bool, type(None), list)) else ""
    if first["type"] == "extra_forbidden":
        known = _keys_at(place[:-1])
        near = difflib.get_close_matches(place[-1], known, n=1)
        message = f"{key} is not a parameter" + (f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(known)}")
    elif first["type"] == "missing":
        message = f"{key} is missing; expected {_expected(first)}"
    else:
        message = f"{key}{shown}: {_expected(first)}"
    return message + (f" (and {len(others)} more)" if others else "")


def _expected(problem: dict) -> str:
    kind, limits = problem["type"], problem.get("ctx", {})
    if kind == "missing":
        return "a value here"
    if kind in ("model_type", "dict_type"):
        return "expected keys and values"
    if kind in ("too_short", "too_long"):
        bound = f"at least {limits['min_length']}" if kind == "too_short" else f"at most {limits['max_length']}"
        return f"expected {bound} of them, found {limits['actual_length']}"
    if kind == "string_pattern_mismatch":
        return f"expected text of the form {limits['pattern']}"
    return problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected")


def _keys_at(place: list[str]) -> list[str]:
    """Names of the fields of the block at a place in the file."""
    block = Params
    for part in place:
        field = block.model_fields.get(part) if isinstance(block, type) and issubclass(block, BaseModel) else None
        annotation = field.annotation if field else block
        block = next((one for one in _blocks_in(annotation)), block)
    return list(block.model_fields)


def _blocks_in(annotation) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [block for one in getattr(annotation, "__args__", ()) for block in _blocks_in(one)]


def _check_names(path: Path, params: Params) -> None:
    """What a schema of single values can't see: names that must exist elsewhere in the file or in the code."""

    def refuse(key: str, found, expected: str) -> None:
        raise ParameterError(f"{path}: {key} = {found!r}: expected {expected}")

    sources = ", ".join(params.sources)
    prefixes = {}
    for name, subset in params.composites.subsets.items():
        if name == "All":
            refuse("composites.subsets", name, "another name; tables call all sub-datasets together All")
        other = prefixes.setdefault(subset.prefix, name)
        if other != name:
            refuse(f"composites.subsets.{name}.prefix", subset.prefix, f"another letter than that of {other}")
        for key in ("source", "references"):
            if getattr(subset, key) not in params.sources:
                refuse(f"composites.subsets.{name}.{key}", getattr(subset, key), f"one of the sources ({sources})")
        if subset.recipe != "transfer" and subset.references != subset.source:
            refuse(f"composites.subsets.{name}.references", subset.references, f"{subset.source}, the source itself, whose other renditions are used")
    for name in params.real_sets:
        if name in ("train", "val", "test", "All"):
            refuse("real_sets", name, "another name; it becomes the name of a split beside train, val and test")
    if params.image_size in params.inference.resolutions:
        refuse("inference.resolutions", params.inference.resolutions, f"sides other than image_size = {params.image_size}, which is scored anyway")
    if params.inpainting.source not in params.sources:
        refuse("inpainting.source", params.inpainting.source, f"one of the sources ({sources})")
    for name, block in params.models.items():
        try:
            models.task_of(name)
        except ValueError as error:
            raise ParameterError(f"{path}: models.{name}: {error}") from None


class View:
    """The part of the parameters that a stage declares; reading anything else is an error of the stage.

    dvc.yaml lists the same declaration, so that DVC reruns a stage for exactly what it reads.
    """

    def __init__(self, value, declared: list[list[str]], place: tuple[str, ...] = ()):
        self._value, self._declared, self._place = value, declared, place

    def __getattr__(self, key: str):
        place = (*self._place, key)
        value = self._value[key] if isinstance(self._value, dict) else getattr(self._value, key)
        if any(list(place[: len(one)]) == one for one in self._declared):
            return value
        if any(one[: len(place)] == list(place) for one in self._declared):
            return View(value, self._declared, place)
        raise AttributeError(f"this stage reads {'.'.join(place)}, which its PARAMS does not declare")

    __getitem__ = __getattr__


def task_of(name: str) -> str:
    """`models.task_of`, its refusal told as that of a wrong argument."""
    try:
        return models.task_of(name)
    except ValueError as error:
        raise ParameterError(str(error)) from None


def build_model(name: str, hyperparameters: dict):
    """`models.create`, its refusals told as those of params.yaml."""
    try:
        return models.create(name, **hyperparameters)
    except ValueError as error:
        raise ParameterError(f"params.yaml: models.{name}.hyperparameters: {error}") from None
