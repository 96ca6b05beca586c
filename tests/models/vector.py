"""A network's test vector: what its tiny, seeded form answers, written once when the network is accepted.

    python -m tests.models.vector NAME '{"width": 8}' [--size 64]

writes tests/models/vectors/NAME.npz; tests/models/test_vectors.py then holds every network to its own. Write it anew
only when the network is meant to answer differently, and say why in the commit.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import models

FOLDER = Path(__file__).parent / "vectors"


@dataclass
class Case:
    """A network in the form of its test vector. Tests share it, so each takes it from `fresh`."""

    name: str
    hyperparameters: dict
    size: int
    n_parameters: int
    answer: np.ndarray

    def __post_init__(self):
        self.model = build(self.name, self.hyperparameters)
        self.state = {key: value.clone() for key, value in self.model.state_dict().items()}
        self.moving = {key for key, parameter in self.model.named_parameters() if parameter.requires_grad}

    def fresh(self) -> models.Model:
        """The network as it was built, for prediction, in its first phase."""
        self.model.load_state_dict(self.state)
        self.model.enter(self.model.phases[0])
        for key, parameter in self.model.named_parameters():  # what entering a phase froze as well
            parameter.requires_grad_(key in self.moving)
            parameter.grad = None
        return self.model.eval()


def stored(name: str) -> dict:
    """What the vector's file holds. Raises FileNotFoundError, with the command that writes it, where there is none."""
    file = FOLDER / f"{name}.npz"
    if not file.exists():
        command = f"python -m tests.models.vector {name} '{{...}}'"
        raise FileNotFoundError(f"{name} has no test vector; `{command}` with tiny hyperparameters writes it")
    return dict(np.load(file))


def hyperparameters(name: str) -> dict:
    """Those of the network's tiny form."""
    return json.loads(str(stored(name)["hyperparameters"]))


def load(name: str) -> Case:
    """The network in the form of its vector, and what the vector says of it."""
    content = stored(name)
    return Case(name, hyperparameters(name), int(content["size"]), int(content["n_parameters"]), content["answer"])


def trained_names() -> tuple[str, ...]:
    """The methods that have parameters, as their vectors tell; one without a vector is counted among them."""
    files = {name: FOLDER / f"{name}.npz" for name in models.names()}
    return tuple(name for name, file in files.items() if not file.exists() or np.load(file)["n_parameters"] > 0)


def build(name: str, hyperparameters: dict) -> models.Model:
    """The network with weights that depend on nothing but their shapes: not on torch's generators or its versions."""
    model = models.create(name, **hyperparameters).eval()
    state = model.state_dict()
    for number, (key, value) in enumerate(sorted(state.items())):
        if not value.is_floating_point():
            continue
        drawn = torch.from_numpy(np.random.default_rng(number).standard_normal(tuple(value.shape)).astype(np.float32))
        if key.endswith("running_var"):
            state[key] = 1 + 0.1 * drawn.abs()
        elif value.dim() > 1:
            state[key] = drawn / np.sqrt(value[0].numel())
        else:
            # a vector that starts constant (a norm's ones and zeros) moves a little; one that starts random is redrawn
            first = value.flatten()[0]
            start = value if (value == first).all() and (value.numel() > 1 or first in (0, 1)) else 0
            state[key] = start + 0.1 * drawn
    model.load_state_dict(state)
    return model


def batch(task: str, height: int, width: int | None = None) -> dict[str, torch.Tensor]:
    """Two images and masks, the same on every machine; square without a width."""
    width = height if width is None else width
    rng = np.random.default_rng(7)
    image, real = (torch.from_numpy(rng.random((2, 3, height, width), dtype=np.float32)) for _ in range(2))
    mask = torch.zeros(2, 1, height, width)
    mask[0, :, height // 4 : height // 2, width // 8 : width // 2] = 1
    mask[1, :, height // 2 :, width // 3 : -width // 8] = 1
    if task == "inpainting":
        return {"image": real, "hole": mask}
    return {"composite": image * mask + real * (1 - mask), "mask": mask, "real": real}


def answer(model: models.Model, size: int) -> np.ndarray:
    """The prediction, averaged over 4x4 pixels."""
    with torch.no_grad():
        return torch.nn.functional.avg_pool2d(model(batch(model.task, size)), 4).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=models.names())
    parser.add_argument("hyperparameters", type=json.loads)
    parser.add_argument("--size", type=int, default=64)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = build(given.name, given.hyperparameters)
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(
        FOLDER / f"{given.name}.npz",
        hyperparameters=json.dumps(given.hyperparameters),
        size=given.size,
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        answer=answer(model, given.size),
    )


if __name__ == "__main__":
    main()
