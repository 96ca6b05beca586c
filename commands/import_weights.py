"""Weights that others released, in one file or several -> one safetensors file that models.<name>.weights of params.yaml names.

The network is built with the hyperparameters that params.yaml has for it, if it is there, and with the published ones
otherwise. Files are read without running anything in them, and paired with the network's entries by name, or by position.
"""

import hashlib
import inspect
import json
from pathlib import Path

import torch
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

import models
from pipeline import command, params
from pipeline.errors import ParameterError, UserError
from pipeline.networks import importing

PARAMS = ("models.{model}.hyperparameters",)


def main(arguments) -> None:
    name, out = arguments.model, Path(arguments.out)
    params.task_of(name)
    files = [Path(file) for file in arguments.files]
    if out.suffix != ".safetensors":
        raise ParameterError(f"{out}: the file is safetensors; end its name so")
    if out.exists():
        raise UserError(f"{out} is there already; remove it or give another name")
    if twice := [file for file in files if files.count(file) > 1]:
        raise ParameterError(f"{twice[0]} is given twice")
    hyperparameters = _hyperparameters(name, arguments.hyperparameters)
    with torch.device("meta"):
        model = params.build_model(name, hyperparameters | _without_weights(name))
    if not model.state_dict():
        raise ParameterError(f"{name} has no weights")
    entries = [importing.read(file, arguments.key) for file in files]
    pairing = importing.pair(
        model, entries, [file.suffix.lower() != ".safetensors" for file in files], arguments.kernels
    )
    for entry, own in pairing.pairs:
        print(f"{entry} -> {own}")
    sources = [{"file": file.name, "sha256": _sha256(file)} for file in files]
    about = {
        "network": name,
        "hyperparameters": json.dumps(hyperparameters, sort_keys=True),
        "sources": json.dumps(sources),
    }
    importing.write(out, pairing, about)
    print(f"{out}: {len(pairing.pairs)} entries of {name}, paired by {pairing.by}; sha256 {_sha256(out)}")
    for remark in pairing.remarks:
        print(f"  {remark}")
    print(
        f"  params.yaml runs it as  models: {{{name}: {{hyperparameters: {json.dumps(hyperparameters)}, weights: {out}}}}}"
    )


def _hyperparameters(name: str, given: str | None) -> dict:
    if given is not None:
        try:
            content = YAML(typ="safe", pure=True).load(given)
        except YAMLError:
            content = None
        if not isinstance(content, dict):
            raise ParameterError(f"--hyperparameters {given!r}: expected YAML such as '{{width: 32, norm: batch}}'")
        return content
    if not Path("params.yaml").exists():
        return {}
    parameters = params.load()
    return parameters.models[name].hyperparameters if name in parameters.models else {}


def _without_weights(name: str) -> dict[str, str]:
    """Hyperparameters that name further files, of backbones and of losses: what they hold is written over, or no part of the network."""
    return {
        key: "none" for key in inspect.signature(models.class_of(name).__init__).parameters if key.endswith("_weights")
    }


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument("model", help="a network of this repository")
    parser.add_argument(
        "files", nargs="+", help=f"{', '.join(importing.SUFFIXES)}; several of one network in the order of its parts"
    )
    parser.add_argument("-o", "--out", required=True, help="safetensors file to write; it must not be there yet")
    parser.add_argument(
        "--hyperparameters",
        metavar="YAML",
        help="of the network, such as '{norm: batch}', in place of those in params.yaml",
    )
    parser.add_argument("--key", help="which state dict is meant, in files that hold several")
    parser.add_argument(
        "--kernels",
        choices=["detect", "torch", "keras"],
        default="detect",
        help="order of the axes of kernels in the files",
    )
    command.run(main, parser.parse_args())
