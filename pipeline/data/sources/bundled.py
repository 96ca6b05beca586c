"""Colour photographs that ship inside the scikit-image and scikit-learn packages.

Their objects are our own polygons (bundled.json: COCO instances, CC0), drawn by hand on enlarged crops; those of
the dahlias, the glands, the trees and the pagoda were tightened with GrabCut, the rim of the retina with a
threshold. The photographs stay where pip put them: nothing is copied, nothing downloaded, neither package imported.

    file                                 split  what, by whom; licence as the packages' documentation states it
    skimage/data/astronaut.png           train  Eileen Collins, NASA; public domain
    skimage/data/chelsea.png             train  a cat, Stefan van der Walt; CC0
    skimage/data/coffee.png              train  Rachel Michetti, courtesy of Pikolo Espresso Bar; CC0
    skimage/data/motorcycle_left.png     train  Middlebury 2014 stereo benchmark (Nesic, Westling, Wang, Kitajima,
                                                Krathwohl, Scharstein); no licence stated
    sklearn/datasets/images/flower.jpg   train  a dahlia, flickr.com/photos/vultilion; CC BY 2.0
    skimage/data/ihc.png                 val    stained glands under the microscope, Center for Microscopy and
                                                Molecular Imaging; no known copyright restrictions
    skimage/data/retina.jpg              val    fundus of a left eye, Mikael Häggström; CC0
    skimage/data/rocket.jpg              test   Falcon 9 with DSCOVR, SpaceX; public domain
    sklearn/datasets/images/china.jpg    test   Tower of Buddhist Incense, flickr.com/photos/danielbuechele; CC BY 2.0

Left out: motorcycle_right.png (the scene of motorcycle_left.png again), hubble_deep_field.jpg (no galaxy covers
1% of it), color.png (drawn, not photographed), and all that is gray.
"""

import importlib.util
from pathlib import Path

from pipeline.data.sources import coco
from pipeline.data.sources.base import Photograph
from pipeline.errors import UserError
from pipeline.images import inside

PACKAGES = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
"""Import name of each package -> the name it is installed under."""


def root(package: str) -> Path:
    """The folder of an installed package, by its import name (a key of PACKAGES), found without importing it.
    Raises UserError if it isn't installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{PACKAGES[package]} is not installed: its folder {package}/ holds bundled photographs")
    return Path(next(iter(spec.submodule_search_locations)))


def locate(file_name: str) -> Path:
    """The file that bundled.json calls `file_name` ("skimage/data/astronaut.png").

    Raises UserError naming package and file if the package isn't installed or came without the file, and for a
    name that leads out of the two packages.
    """
    package, _, rest = file_name.partition("/")
    if package not in PACKAGES:
        raise UserError(f"{file_name}: expected a file of {' or '.join(f'{name}/' for name in PACKAGES)}")
    file = inside(root(package), rest)
    if not file.is_file():
        raise UserError(f"{file_name}: the installed {PACKAGES[package]} has no such file ({file})")
    return file


def read(path: Path) -> tuple[list[Photograph], list[dict]]:
    """Photographs and rejected rows of bundled.json, or of another COCO JSON whose file names start with
    skimage/ or sklearn/. Raises UserError as `coco.read_json` does."""
    return coco.read_json(path, locate)
