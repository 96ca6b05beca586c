"""A network's training: by one worker on a CPU in this process, else by workers that Ray places and replaces.

With RAY_ADDRESS naming a cluster, the one worker on a CPU is placed there too.
"""

import contextlib
import logging
import math
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from pipeline import atomic
from pipeline.errors import ParameterError, UserError, lacks_memory
from pipeline.logs import LOG
from pipeline.networks import devices, mirror
from pipeline.networks.loop import Job, Loop, train_plain
from pipeline.running import cluster

MAX_FAILURES = 3
"""How often a killed worker is replaced before the training is given up."""


def train(job: Job) -> None:
    """Train on the device and by the number of workers that params.yaml asks for.

    Raises UserError or ParameterError in one line, also when it was a worker elsewhere that raised it.
    """
    device = devices.resolve_device(job.shared.device, job.shared.workers)
    mirror.pull(job.folder)
    alone = device == "cpu" and job.shared.workers == 1
    if cluster.plain() or (alone and not cluster.elsewhere()):
        train_plain(job)
        return
    import ray.train
    from ray.train.torch import TorchTrainer

    logging.getLogger("ray.train").setLevel(logging.WARNING)
    with cluster.session():
        cpus = job.shared.threads if alone else 1
        if device == "gpu":
            cluster.require_gpus(math.ceil(job.shared.workers * cluster.gpu_share()))
        elif cluster.elsewhere():
            cluster.require_cpus(job.shared.workers, cpus)
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "failure.txt").unlink(missing_ok=True)
        # Ray's own bookkeeping goes to a folder of its own and is thrown away: a Ray run of the same name would
        # take itself for finished, whatever changed since. What a training goes on from is our checkpoint.
        bookkeeping = job.folder / "ray"
        shutil.rmtree(bookkeeping, ignore_errors=True)
        trainer = TorchTrainer(
            _ray_worker,
            train_loop_config={"job": job, "device": device},
            scaling_config=ray.train.ScalingConfig(
                num_workers=job.shared.workers,
                use_gpu=device == "gpu",
                resources_per_worker={"CPU": cpus, **({"GPU": cluster.gpu_share()} if device == "gpu" else {})},
            ),
            run_config=ray.train.RunConfig(
                name=job.name,
                storage_path=str(bookkeeping),
                failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
            ),
        )
        try:
            with _printed_as_it_grows(job.folder / "training.log"):
                trainer.fit()
        except UserError:
            raise
        except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
            last = str(error).strip().splitlines()[-1]
            raise UserError(f"training {job.name}: workers failed more than {MAX_FAILURES} times ({last})") from None
        finally:
            shutil.rmtree(bookkeeping, ignore_errors=True)
    failure = job.folder / "failure.txt"
    if failure.exists():
        code, text = failure.read_text().split("\n", 1)
        raise (ParameterError if int(code) == ParameterError.exit_code else UserError)(text)


@contextlib.contextmanager
def _printed_as_it_grows(log: Path) -> Iterator[None]:
    """Print the lines that workers, wherever they are, add to a training's log while the block lasts."""
    ended, position = threading.Event(), log.stat().st_size if log.exists() else 0

    def follow() -> None:
        nonlocal position
        while True:
            last = ended.wait(0.5)
            if log.exists():
                with open(log) as file:
                    file.seek(position)
                    for line in file.read().splitlines():
                        LOG.info(line)
                    position = file.tell()
            if last:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _ray_worker(config: dict) -> None:
    import ray.train

    job, context = config["job"], ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    failure = job.folder / "failure.txt"
    if failure.exists():
        return  # left by the attempt before this one, and trying again would fail again: the driver reads it
    # on GPUs PyTorch's own number, of which results don't depend there
    on_cpu = devices.threads(job.shared.threads if world == 1 else 1)
    try:
        with on_cpu if config["device"] == "cpu" else contextlib.nullcontext():
            Loop(job, config["device"], rank, world, report=lambda metrics: ray.train.report(metrics)).run()
    except UserError as error:
        with atomic.file(failure) as path:
            path.write_text(f"{error.exit_code}\n{error}")
        raise  # the other workers may be waiting for this one, and Ray ends them
    except (MemoryError, RuntimeError) as error:
        if lacks_memory(error):  # as often as it is tried
            with atomic.file(failure) as path:
                path.write_text(
                    f"1\ntraining {job.name}: not enough memory; lower models.{job.name}.training.batch_size"
                )
        raise
