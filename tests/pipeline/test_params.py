import copy
import io
import json
import typing
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

import models
from pipeline import color_transfer, irregular_masks, params
from pipeline.errors import ParameterError
from pipeline.params import loading, schema, wording
from pipeline.scoring import protocols

ROOT = Path(__file__).resolve().parents[2]
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
YAML_SAFE = YAML(typ="safe", pure=True)
YAML_SAFE.sort_base_mapping_type_on_output = False


@pytest.fixture(scope="module")
def embedded() -> dict:
    file = ROOT / "presets" / "embedded.yaml"
    # the recipes' values stand in every block, a copy in each, to be edited there
    return json.loads(json.dumps(loading.with_recipes(file, YAML_SAFE.load(file.read_text()))))


@pytest.fixture
def load(embedded, tmp_path):
    """Load the embedded preset after setting (or, with `...`, deleting) the value at a dotted place."""

    def edited(place: str | None = None, value=None, content=embedded):
        content = copy.deepcopy(content)
        if place is not None:
            *way, last = place.split(".")
            block = content
            for key in way:
                block = block[key]
            if value is ...:
                del block[last]
            else:
                block[last] = value
        text = io.StringIO()
        YAML_SAFE.dump(content, text)
        file = tmp_path / "params.yaml"
        file.write_text(text.getvalue())
        return params.load(file)

    return edited


def refusal(load, place, value) -> str:
    """The message, which must be one line that starts with the file."""
    with pytest.raises(ParameterError) as caught:
        load(place, value)
    message = str(caught.value)
    assert "\n" not in message and "params.yaml: " in message, message
    assert caught.value.exit_code == 2
    return message.split("params.yaml: ", 1)[1]


# ---- presets


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.stem)
def test_every_preset_is_valid_and_names_methods(file):
    loaded = params.load(file)
    expected = {"places2": ["inpainting"], "iharmony4": ["localization", "harmonization"]}
    assert loaded.tasks == expected.get(file.stem, list(models.TASKS))


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.stem)
def test_every_preset_spells_out_every_key_that_it_has_a_use_for(file):
    # what pydantic fills in silently would make the file an incomplete account of the run
    content = YAML_SAFE.load(file.read_text())
    unused = {
        "places2": {"composites", "real_sets", "localization"},
        "iharmony4": {"sources", "irregular_masks", "inpainting"},
    }
    assert set(content) == set(params.Params.model_fields) - unused.get(file.stem, set())
    for block in {
        "irregular_masks",
        "localization",
        "inpainting",
        "training",
        "inference",
        "evaluation",
        "report",
    } & set(content):
        (kind,) = wording._blocks_in(params.Params.model_fields[block].annotation)
        assert set(content[block]) == set(kind.model_fields)


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.stem)
def test_every_model_of_a_preset_builds_and_its_training_fits_it(file):
    for name, block in params.load(file).models.items():
        hyperparameters = dict(block.hyperparameters)
        # pretrained weights can't be had here, and building on the meta device must not look for them
        hyperparameters |= {key: "none" for key in hyperparameters if key.endswith("_weights")}
        with torch.device("meta"):
            model = params.build_model(name, hyperparameters)
        assert model.task == models.task_of(name)
        assert (block.training is not None) == bool(model.players), f"{name}: a training block exactly for what learns"
        if block.training is not None:
            assert set(block.training.phases) == set(model.phases[1:]), name
            assert set(block.training.players) <= set(model.players), name


# ---- what is read


def test_values_are_typed_and_exponents_are_numbers(load):
    loaded = load("models.unet.training.optimization.learning_rate", 3e-4)
    rate = loaded.models["unet"].training.optimization.learning_rate
    assert rate == 0.0003 and isinstance(rate, float)
    assert isinstance(loaded.seed, int) and isinstance(loaded.sources["bundled"].shortest_side, int)


@pytest.mark.parametrize("text, number", [("1e-4", 1e-4), ("3e-4", 3e-4), ("1E5", 1e5), ("2.5e-3", 2.5e-3), ("1", 1.0)])
def test_numbers_as_people_write_them(tmp_path, text, number):
    content = (ROOT / "presets/embedded.yaml").read_text()
    file = tmp_path / "params.yaml"
    changed = content.replace("max_hue_rotation: 60", f"max_hue_rotation: {text}", 1)
    assert changed != content
    file.write_text(changed)
    rotation = params.load(file).composites.rendering.filters.max_hue_rotation
    assert rotation == number and type(rotation) is float


def test_blocks_cannot_be_changed(load):
    with pytest.raises(Exception, match="frozen"):
        load().seed = 1


def test_models_of_a_task_come_in_the_order_of_the_file(load, embedded):
    loaded = load()
    assert loaded.models_of("harmonization") == [
        name for name in embedded["models"] if models.task_of(name) == "harmonization"
    ]


def test_names_spelled_out_here_are_those_of_the_code():
    assert typing.get_args(schema.TransferMethod) == color_transfer.METHODS
    for task, records in protocols.RECORDS.items():
        spelled = schema.Protocols.model_fields[task].annotation.__args__[0].__args__[0]
        assert typing.get_args(spelled) == tuple(record.name for record in records)
    assert typing.get_args(schema.MaskKind) == irregular_masks.KINDS + irregular_masks.REGULAR_KINDS


# ---- what is refused


def test_unknown_keys_are_answered_with_the_nearest_known_one(load):
    assert refusal(load, "sed", 3) == "sed is not a parameter; did you mean 'seed'?"
    place = "models.unet.training.optimization.learning_rat"
    assert refusal(load, place, 0.1) == f"{place} is not a parameter; did you mean 'learning_rate'?"
    place = "composites.subsets.HCOCO.sorce"
    assert refusal(load, place, "bundled").startswith(f"{place} is not a parameter; did you mean 'source'?")
    assert refusal(load, "training.zzz", 1) == (
        "training.zzz is not a parameter; known here: device, precision, workers, threads, validation_images, repeats, samples_every"
    )


def test_a_misspelled_key_is_told_before_the_key_it_leaves_missing(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text((ROOT / "presets/embedded.yaml").read_text().replace("image_size:", "image_sise:"))
    with pytest.raises(
        ParameterError, match=r"image_sise is not a parameter; did you mean 'image_size'\? \(and 1 more\)"
    ):
        params.load(file)


@pytest.mark.parametrize(
    "place, value, message",
    [
        ("seed", "x", "seed = 'x': expected a valid integer"),
        ("seed", True, "seed = True: expected a valid integer"),
        ("seed", 1.5, "seed = 1.5: expected a valid integer"),
        ("seed", "7", "seed = '7': expected a valid integer"),
        ("image_size", None, "image_size = None: expected a valid integer"),
        ("localization.max_foreground", "half", "localization.max_foreground = 'half': expected a valid number"),
        (
            "models.unet.training.augmentation.flip",
            "yes",
            "models.unet.training.augmentation.flip = 'yes': expected a valid boolean",
        ),
        ("training", "cpu", "training = 'cpu': expected keys and values"),
        ("models", None, "models = None: expected keys and values"),
        ("composites.rendering.methods", "xiao", "composites.rendering.methods = 'xiao': expected a valid list"),
        ("models.unet.hyperparameters", {1: 2}, "models.unet.hyperparameters.1 = 1: expected a valid string"),
    ],
)
def test_wrong_types(load, place, value, message):
    assert refusal(load, place, value) == message


@pytest.mark.parametrize(
    "place, value, message",
    [
        ("image_size", 16, "image_size = 16: expected greater than or equal to 32"),
        ("seed", -1, "seed = -1: expected greater than or equal to 0"),
        ("training.workers", 0, "training.workers = 0: expected greater than or equal to 1"),
        ("training.device", "tpu", "training.device = 'tpu': expected 'cpu', 'gpu' or 'auto'"),
        (
            "composites.rendering.jpeg_quality",
            101,
            "composites.rendering.jpeg_quality = 101: expected less than or equal to 100",
        ),
        ("composites.rendering.methods", [], "composites.rendering.methods = []: expected at least 1 of them, found 0"),
        (
            "composites.subsets.HCOCO.prefix",
            "cc",
            "composites.subsets.HCOCO.prefix = 'cc': expected text of the form ^[a-z]$",
        ),
        ("evaluation.confidence", 1, "evaluation.confidence = 1: expected less than 1"),
        (
            "models.unet.training.optimization.learning_rate",
            0,
            "models.unet.training.optimization.learning_rate = 0: expected greater than 0",
        ),
        (
            "models.unet.training.optimization.betas",
            [0.9],
            "models.unet.training.optimization.betas = [0.9]: expected at least 2 of them, found 1",
        ),
        (
            "models.unet.training.optimization.betas",
            [0.9, 1],
            "models.unet.training.optimization.betas.1 = 1: expected less than 1",
        ),
        (
            "models.unet.training.augmentation.crop",
            {"low": -1, "high": 1},
            "models.unet.training.augmentation.crop.low = -1: expected greater than or equal to 0",
        ),
        ("models", {}, "models: expected at least 1 of them, found 0"),
        ("sources", {}, "composites.subsets.HCOCO.source = 'bundled': expected one of the sources (none)"),
        ("composites", ..., "composites.subsets is missing, which constant_map and all methods of localization need"),
        (
            "composites.subsets",
            {},
            "composites.subsets is missing, which constant_map and all methods of localization need",
        ),
        (
            "composites.rendering",
            ...,
            "composites.rendering = None: expected a block; HCOCO is made by recipe transfer",
        ),
        ("localization", ..., "localization is missing, which constant_map and all methods of localization need"),
        ("irregular_masks", ..., "irregular_masks is missing, which mean_fill and all methods of inpainting need"),
        ("inpainting", ..., "inpainting is missing, which mean_fill and all methods of inpainting need"),
        (
            "sources.bundled.kind",
            "folder",
            "composites.subsets.HCOCO.source = 'bundled': expected a source with objects; one of kind folder has none",
        ),
        (
            "sources.bundled.lists",
            {"train": "a.txt"},
            "sources.bundled: lists is read by kind folder; kind bundled has no use for it",
        ),
        (
            "composites.subsets.HCOCO.recipe",
            "paste",
            "composites.subsets.HCOCO.recipe = 'paste': expected 'transfer', 'renditions', 'day2night' or 'iharmony4'",
        ),
        (
            "composites.subsets.Real",
            {"recipe": "iharmony4"},
            "composites.subsets.Real.path is missing; expected a value here",
        ),
        (
            "composites.subsets.Real",
            {"recipe": "iharmony4", "path": "a", "disjont": True},
            "composites.subsets.Real.disjont is not a parameter; did you mean 'disjoint'?",
        ),
        ("composites.subsets.Real", 3, "composites.subsets.Real = 3: expected keys and values"),
    ],
)
def test_impossible_values(load, place, value, message):
    assert refusal(load, place, value) == message


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_numbers_must_be_finite(load, number):
    assert refusal(load, "models.unet.training.optimization.learning_rate", number).endswith("expected a finite number")


def test_bounds_the_wrong_way_round(load):
    place = "composites.rendering.filters.colour_difference"
    assert refusal(load, place, {"low": 40, "high": 3}) == f"{place}: low = 40.0 is not below high = 3.0"
    place = "sources.bundled"
    message = refusal(load, place + ".test_share", 0.9)
    assert message.startswith(f"{place}: validation_share + test_share = ") and message.endswith(
        "leaves nothing to train on"
    )
    place = "composites.subsets.HCOCO"
    assert (
        refusal(load, place + ".composites_per_object", 9)
        == f"{place}: composites_per_object = 9 is above max_per_object = 3"
    )


def test_missing_keys(load):
    assert refusal(load, "seed", ...) == "seed is missing; expected a value here"
    assert refusal(load, "report", ...) == "report is missing; expected a value here"


def test_several_faults_are_counted(load):
    assert refusal(load, "inference", {"batch_size": 0, "resolutions": [], "batchsize": 1}).endswith(
        "did you mean 'batch_size'? (and 1 more)"
    )


def test_protocols_and_resolutions(load):
    assert load("inference.resolutions", [512, "original"]).inference.resolutions == [512, "original"]
    protocols = load("evaluation.protocols.harmonization", ["saic", "iih"]).evaluation.protocols
    assert protocols.harmonization == ["saic", "iih"] and protocols.inpainting is None
    for place, value, message in (
        (
            "evaluation.protocols.harmonization",
            ["sai"],
            "evaluation.protocols.harmonization.0 = 'sai': expected 'seam-256', 'iharmony4'",
        ),
        (
            "evaluation.protocols.inpainting",
            ["saic"],
            "evaluation.protocols.inpainting.0 = 'saic': expected 'seam-256', 'unpasted', 'edgeconnect' or 'lama'",
        ),
        ("evaluation.protocols.localization", ["dirl", "dirl"], "evaluation.protocols: localization names dirl twice"),
        ("inference.resolutions", [128, 128], "inference: resolutions names 128 twice"),
        (
            "inference.resolutions",
            [16],
            'inference.resolutions.0 = 16: expected a side of at least 32 pixels, or "original"',
        ),
        (
            "inference.resolutions",
            ["own"],
            "inference.resolutions.0 = 'own': expected a side of at least 32 pixels, or \"original\"",
        ),
        ("inference.resolutions", ["original", "original"], "inference: resolutions names original twice"),
        (
            "inference.resolutions",
            [64],
            "inference.resolutions = [64]: expected sides other than image_size = 64, which is scored anyway",
        ),
    ):
        assert refusal(load, place, value).startswith(message)


def test_names_must_exist(load, embedded):
    assert refusal(load, "models.unte", {"hyperparameters": {}}).startswith(
        "models.unte: no model 'unte'; did you mean 'unet'?"
    )
    assert (
        refusal(load, "inpainting.source", "photos")
        == "inpainting.source = 'photos': expected one of the sources (bundled)"
    )
    for key in ("source", "references"):
        place = f"composites.subsets.HCOCO.{key}"
        assert refusal(load, place, "photos") == f"{place} = 'photos': expected one of the sources (bundled)"
    assert refusal(load, "composites.rendering.methods", ["xia"]) == (
        "composites.rendering.methods.0 = 'xia': expected 'reinhard', 'xiao', 'fecker' or 'pitie'"
    )
    assert "irregular_masks.kinds.0 = 'stroke': expected 'random_walk', 'strokes'" in refusal(
        load, "irregular_masks.kinds", ["stroke"]
    )


def test_names_become_folders_and_must_not_lead_elsewhere(load, embedded):
    block = embedded["sources"]["bundled"]
    for name in ("../elsewhere", "a_b", "1st", ""):
        assert refusal(load, "sources", {"bundled": block, name: block}).endswith(
            "expected text of the form ^[A-Za-z][A-Za-z0-9]*$"
        )


@pytest.mark.parametrize("name", ["x;touch pwned;", "$(touch pwned)", "x y", "x\ny", "x&y", "'x'", "../x", "é"])
def test_names_that_a_shell_would_take_for_more_are_refused_wherever_one_stands(load, embedded, name):
    real_set = {"kind": "pairs", "path": "there", "max_megapixels": 50, "max_rejected": 0.0}
    places = {
        "sources": embedded["sources"]["bundled"], "composites.subsets": embedded["composites"]["subsets"]["HCOCO"], "real_sets": real_set,
        "models": {},
    }  # fmt: skip
    for place, block in places.items():
        refused = refusal(load, place, {name: block})
        assert "expected text of the form ^[A-Za-z][A-Za-z0-9" in refused, refused
    for place in ("inpainting.source", "composites.subsets.HCOCO.source", "composites.subsets.HCOCO.references"):
        assert "expected text of the form" in refusal(load, place, name)


def test_tasks_are_those_that_have_a_method(load, embedded):
    assert load().tasks == ["localization", "harmonization", "inpainting"]
    alone = {key: value for key, value in embedded.items() if key not in ("composites", "localization", "real_sets")}
    alone["models"] = {"telea": {}}
    loaded = load(None, content=alone)
    assert loaded.tasks == ["inpainting"] and loaded.subsets == {}
    real = {
        key: value
        for key, value in embedded.items()
        if key not in ("sources", "irregular_masks", "inpainting", "localization")
    }
    real |= {
        "composites": {"subsets": {"HCOCO": {"recipe": "iharmony4", "path": "../iHarmony4/HCOCO"}}},
        "models": {"composite": {}},
    }
    loaded = load(None, content=real)
    assert (
        loaded.tasks == ["harmonization"]
        and loaded.subsets["HCOCO"].validation_share == 0.02
        and not loaded.subsets["HCOCO"].disjoint
    )


def test_subsets_must_not_clash(load, embedded):
    subset = embedded["composites"]["subsets"]["HCOCO"]
    assert refusal(load, "composites.subsets.HFlickr", subset) == (
        "composites.subsets.HFlickr.prefix = 'c': expected another letter than that of HCOCO"
    )
    # "All" is what tables call the images of all sub-datasets pooled
    assert refusal(load, "composites.subsets.All", subset | {"prefix": "z"}).startswith(
        "composites.subsets = 'All': expected another name"
    )


def test_renditions_come_from_the_source_itself(load, embedded):
    subset = embedded["composites"]["subsets"]["HCOCO"] | {"recipe": "renditions", "prefix": "a", "references": "other"}
    content = embedded | {"sources": dict.fromkeys(("bundled", "other"), embedded["sources"]["bundled"])}
    content["composites"] = content["composites"] | {"subsets": {"HAdobe5k": subset}}
    with pytest.raises(
        ParameterError,
        match="references = 'other': expected bundled, the source itself, whose other renditions are used",
    ):
        load(None, content=content)


@pytest.mark.parametrize("name", ["train", "val", "test", "All"])
def test_real_sets_are_not_called_like_splits(load, name):
    real_set = {"kind": "pairs", "path": "there", "max_megapixels": 50, "max_rejected": 0.0}
    assert load("real_sets.DIH99", real_set).real_sets["DIH99"].path == "there"
    assert refusal(load, f"real_sets.{name}", real_set).startswith(f"real_sets = '{name}': expected another name")


def test_files_that_hold_no_parameters(tmp_path):
    file = tmp_path / "params.yaml"
    with pytest.raises(ParameterError, match=r"params\.yaml: missing; `make preset NAME=embedded` writes the default"):
        params.load(file)
    for text, expected in [
        ("", "the file = None: expected keys and values"),
        ("- 1", r"the file = \[1\]: expected keys and values"),
        ("seed: [", "is not YAML: .*line 1"),
        ("seed: 1\nseed: 2", 'is not YAML: .*duplicate key "seed"'),
        ("seed: !!python/object/apply:os.getcwd []", "is not YAML: could not determine a constructor"),
    ]:
        file.write_text(text)
        with pytest.raises(ParameterError, match=expected) as caught:
            params.load(file)
        assert "\n" not in str(caught.value)
    file.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ParameterError, match="not UTF-8 text"):
        params.load(file)
    with pytest.raises(ParameterError, match="a folder, not a file"):
        params.load(tmp_path)


def test_hyperparameters_that_do_not_fit_the_network():
    with pytest.raises(ParameterError) as caught:
        params.build_model("unet", {"widht": 8})
    start = "params.yaml: models.unet.hyperparameters: unet has no hyperparameter 'widht'; did you mean 'width'?"
    assert str(caught.value).startswith(start) and "\n" not in str(caught.value)
    with pytest.raises(ParameterError, match=r"models\.unet\.hyperparameters: unet: width = 'wide', expected int"):
        params.build_model("unet", {"width": "wide"})
    with pytest.raises(ParameterError, match=r"models\.constant_map\.hyperparameters: probability = 2"):
        params.build_model("constant_map", {"probability": 2})


@pytest.mark.parametrize(
    "name, key, value", [("bargainnet", "width", 0), ("deeplabv3", "channels", 0), ("dih", "width", -1)]
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_counts_of_which_torch_makes_no_layer_are_refused_in_one_line(name, key, value):
    with torch.device("meta"), pytest.raises(ParameterError) as caught:
        params.build_model(name, {key: value})
    start = f"params.yaml: models.{name}.hyperparameters: {name}: no network can be built with {key} = {value} ("
    assert str(caught.value).startswith(start) and "\n" not in str(caught.value)


# ---- the part that a stage declares


def test_a_view_shows_what_is_declared_and_nothing_else(load):
    view = load().only(("seed", "sources.{source}", "training.device"), source="bundled")
    assert view.seed == load().seed
    assert view.sources["bundled"].kind == "bundled" == view.sources.bundled.kind
    assert view.training.device == "cpu"
    for read, name in [
        (lambda: view.image_size, "image_size"),
        (lambda: view.training.workers, "training.workers"),
        (lambda: view.composites.rendering, "composites"),
    ]:
        with pytest.raises(AttributeError, match=f"this stage reads {name}, which its PARAMS does not declare"):
            read()


def test_a_view_reaches_into_a_model_block(load):
    view = load().only(("models.{model}.hyperparameters",), model="unet")
    assert view.models["unet"].hyperparameters == load().models["unet"].hyperparameters
    with pytest.raises(AttributeError, match=r"models\.unet\.training"):
        view.models["unet"].training
    with pytest.raises(AttributeError, match=r"models\.pconv"):
        view.models["pconv"]


def test_a_view_of_what_the_file_lacks_is_refused_with_the_nearest_name(load):
    with pytest.raises(ParameterError, match="^sources has no 'bundle'; did you mean 'bundled'\\?$"):
        load().only(("sources.{source}",), source="bundle")
    with pytest.raises(ParameterError, match="^models has no 'xyz'; it has constant_map, "):
        load().only(("models.{model}",), model="xyz")


# ---- recipes


RECIPE = {
    "epochs": 3,
    "batch_size": 8,
    "optimization": {"optimizer": "adam", "learning_rate": 0.1},
    "augmentation": {"flip": True, "crop": {"low": 0.5, "high": 1.0}},
}


def test_a_recipe_fills_in_what_a_block_leaves_out_key_by_key():
    content = {
        "recipes": {"short": RECIPE},
        "models": {
            "a": {
                "training": {
                    "recipe": "short",
                    "epochs": 9,
                    "optimization": {"learning_rate": 0.2},
                    "augmentation": {"crop": None},
                }
            },
            "b": {},
        },
    }
    filled = loading.with_recipes(Path("p.yaml"), content)["models"]
    assert filled == {
        "a": {
            "training": {
                "recipe": "short",
                "epochs": 9,
                "batch_size": 8,
                "optimization": {"optimizer": "adam", "learning_rate": 0.2},
                "augmentation": {"flip": True, "crop": None},
            }
        },
        "b": {},
    }


@pytest.mark.parametrize("recipes, there", [({"short": RECIPE}, "short"), ({}, "none"), (None, "none")])
def test_a_recipe_that_is_not_there_is_named(load, recipes, there):
    with pytest.raises(ParameterError) as caught:
        loading.with_recipes(
            Path("p.yaml"), {"recipes": recipes, "models": {"unet": {"training": {"recipe": "shrot"}}}}
        )
    assert str(caught.value) == f"p.yaml: models.unet.training.recipe = 'shrot': expected one of recipes ({there})"


def test_a_training_reads_the_leaves_of_its_recipe_that_it_does_not_override():
    parameters = params.load(ROOT / "presets" / "labelled.yaml")
    places = parameters.read_of("segformer", "models.{model}")
    assert places[0] == "models.segformer"
    assert "recipes.localizer.epochs" in places and "recipes.localizer.augmentation.crop.high" in places
    assert not {"recipes.localizer.optimization.learning_rate", "recipes.localizer.augmentation.crop.low"} & set(places)
    assert not any(place.startswith(("recipes.harmonizer", "recipes.inpainter")) for place in places)
    assert parameters.read_of("telea", "models.{model}.hyperparameters") == ["models.telea"]
