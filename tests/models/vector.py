"""A network's test vector: what its tiny, seeded form answers, written once when the network is accepted.

    python -m tests.models.vector NAME '{"width": 8}' [--size 64]

writes tests/models/vectors/NAME.npz; tests/models/test_vectors.py then holds every network to its own. Write it anew
only when the network is meant to answer differently, and say why in the commit.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

import models

FOLDER = Path(__file__).parent / "vectors"


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


def batch(task: str, size: int) -> dict[str, torch.Tensor]:
    """Two images and masks, the same on every machine."""
    rng = np.random.default_rng(7)
    image, real = (torch.from_numpy(rng.random((2, 3, size, size), dtype=np.float32)) for _ in range(2))
    mask = torch.zeros(2, 1, size, size)
    mask[0, :, size // 4 : size // 2, size // 8 : size // 2] = 1
    mask[1, :, size // 2 :, size // 3 : -size // 8] = 1
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
        n_parameters=sum(one.numel() for one in model.parameters()),
        answer=answer(model, given.size),
    )


if __name__ == "__main__":
    main()
