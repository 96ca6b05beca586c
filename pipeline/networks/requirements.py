"""What a network's training block must fulfil before anything is trained; each refusal names the key of params.yaml."""

from models.base import Model
from pipeline.errors import ParameterError
from pipeline.networks.devices import no_compiler, writes_outside_its_memory
from pipeline.params.schema import ModelTraining


def phases(name: str, training: ModelTraining, known: tuple[str, ...]) -> list[tuple[str, int, float]]:
    """Name, epochs and learning rate of each phase, for a network whose phases are `known`.

    Raises ParameterError when the block names a phase that the network hasn't, or leaves one out.
    """
    later, given = set(known[1:]), set(training.phases)
    if later != given:
        raise ParameterError(
            f"models.{name}.training.phases names {sorted(given) or 'none'}; after its first phase the network has {sorted(later) or 'none'}"
        )
    first = (known[0], training.epochs, training.optimization.learning_rate)
    return [first] + [
        (phase, training.phases[phase].epochs, training.phases[phase].learning_rate) for phase in known[1:]
    ]


def require_trainable(name: str, training: ModelTraining, workers: int, model: Model, on_cpu: bool) -> None:
    """Raises ParameterError where the network can't be trained as its block and `training.workers` say."""
    if not model.players:
        raise ParameterError(f"models.{name}.training: the method has nothing to train; take the block out")
    if unknown := set(training.players) - set(model.players):
        raise ParameterError(
            f"models.{name}.training.players names {sorted(unknown)}; the network has {list(model.players)}"
        )
    phases(name, training, model.phases)
    if training.batch_size % workers:
        # shares of different sizes would weigh their images differently in the mean gradient
        raise ParameterError(
            f"models.{name}.training.batch_size = {training.batch_size} is not divisible by training.workers = {workers}"
        )
    if training.channels_last and on_cpu and (unsafe := writes_outside_its_memory(model)):
        raise ParameterError(
            f"models.{name}.training.channels_last: its convolution {unsafe} (1x1, strided, under 16 channels) would write "
            "outside its memory on a CPU (oneDNN issue 6035); set it to false"
        )
    if training.compile and (why := no_compiler(on_cpu)):
        raise ParameterError(f"models.{name}.training.compile: {why}; set it to false")
