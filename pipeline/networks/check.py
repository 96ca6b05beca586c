"""What of params.yaml can be known to fail before a run: every method is built, without memory, on torch's meta device."""

import os

import torch

from models.base import Model
from pipeline.errors import ParameterError
from pipeline.networks.requirements import require_trainable
from pipeline.params import Params, build_model
from pipeline.params.schema import Training
from pipeline.running import cluster
from pipeline.tasks import TASKS


def check_methods(parameters: Params) -> None:
    """Build every method of params.yaml without memory, and refuse at once what would fail minutes later in a stage.

    Raises ParameterError naming the key: a hyperparameter's name, type or value; phases and players that the network
    hasn't; batches that workers can't share; more workers than there are cores or GPUs; an image_size that the network
    can't take. Weights are not looked for: a stage says what is missing there.
    """
    shared = parameters.training
    for name, block in parameters.models.items():
        if block.outputs is not None:
            continue
        unpretrained = {key: "none" for key in block.hyperparameters if key.endswith("_weights")}
        with torch.device("meta"):
            model = build_model(name, block.hyperparameters | unpretrained)
        if block.training is None:
            if model.players and block.weights is None:
                raise ParameterError(
                    f"params.yaml: models.{name} has neither training nor weights, and {name} learns; add one of them, or take the method out"
                )
            if not model.players and block.weights is not None:
                raise ParameterError(
                    f"params.yaml: models.{name}.weights: the method has none to load; take the line out"
                )
            continue
        require_workers(shared)
        require_trainable(name, block.training, shared.workers, model, on_cpu=shared.device == "cpu")
        _require_size(name, model, parameters.image_size, block.training.batch_size // shared.workers)


def require_workers(training: Training) -> None:
    """Raises ParameterError where this machine has fewer cores or GPUs than `training.workers`. Of a cluster that
    RAY_ADDRESS names nothing is known here; the training itself asks it."""
    if os.environ.get("RAY_ADDRESS"):
        return
    there, what = (torch.cuda.device_count(), "GPU(s)") if training.device == "gpu" else (cluster.cpus(), "core(s)")
    if training.device == "gpu" and not there:
        raise ParameterError(
            "params.yaml: training.device = 'gpu' and this machine has none; set it to cpu, or set RAY_ADDRESS to a cluster that has"
        )
    if training.workers > there:
        raise ParameterError(
            f"params.yaml: training.workers = {training.workers} and this machine has {there} {what}; lower it, or set RAY_ADDRESS to a cluster that has as many"
        )


def _require_size(name: str, model: Model, size: int, images: int) -> None:
    task = TASKS[model.task]
    shapes = {
        task.picture: 3,
        task.truth: 1 if task.truth == "mask" else 3,
        **({task.region: 1} if task.region else {}),
    }
    batch = {key: torch.zeros(images, channels, size, size, device="meta") for key, channels in shapes.items()}
    try:
        model.train()(batch)
    except ValueError as error:
        raise ParameterError(
            f"params.yaml: image_size = {size} and models.{name}: the network refuses it: {error}"
        ) from None
    except (NotImplementedError, RuntimeError):
        return  # an operation that needs values, which this device hasn't; only the training can tell
