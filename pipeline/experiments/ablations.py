"""Published ablation tables as DVC experiments -> results/ablations/<table>.parquet, the published numbers beside ours.

A row's experiment is named after the table, the row, and a hash of the code, parameters
and data that its numbers depend on: a row that is done is not run again, and an edit makes new ones.
"""

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

import models
from pipeline import params, reading, tables
from pipeline.errors import ParameterError, UserError
from pipeline.experiments import dvc_queue
from pipeline.logs import LOG
from pipeline.params import schema
from pipeline.running import graph
from pipeline.scoring import published
from pipeline.tasks import TASKS

FILE = Path("ablations.yaml")
OUT = Path("results/ablations")
COLUMNS = {
    "table": str, "row": str, "model": str, "hyperparameters": str, "experiment": str, "commit": str, "subset": str,
    "condition": str, "n_images": int, "metric": str, "mean": float, "low": float, "high": float, "published": float, "note": str,
}  # fmt: skip
"""hyperparameters: all that the row's network was built with beside its defaults, as JSON. subset: ours; "All" pools.
condition: hole-ratio bucket, or empty. mean, low, high: ours, with the interval of intervals.parquet. published: on our
scale (shares, not per cents), NaN where the paper has no number; `mean` is NaN where we measure no such thing."""


class Printed(schema.Block):
    table: str
    model: str = Field(description="as pipeline/scoring/published.csv calls the row")


class Row(schema.Block):
    set: dict[str, Any] = Field(min_length=1, description="hyperparameters over those of params.yaml")
    published: Printed | None = None


class Table(schema.Block):
    says: str
    model: str
    paper: str | None = Field(None, description="as in pipeline/scoring/published.csv")
    subset: str | None = Field(None, description="published sub-dataset that our pooled numbers are held against")
    rows: dict[str, Row] = Field(min_length=2)

    @model_validator(mode="after")
    def _rows_fit_together(self):
        first, *others = self.rows
        for name in others:
            if self.rows[name].set.keys() != self.rows[first].set.keys():
                raise ValueError(
                    f"row {name!r} sets {', '.join(self.rows[name].set)}, row {first!r} {', '.join(self.rows[first].set)}: expected the same"
                )
        if any(row.published for row in self.rows.values()) and not (self.paper and self.subset):
            raise ValueError("published numbers need `paper` and `subset`")
        return self


def load(path: Path = FILE) -> dict[str, Table]:
    """The tables by name. Raises ParameterError, in one line, for what can't be right in the file."""
    try:
        content = YAML(typ="safe", pure=True).load(reading.text(path))
        loaded = {name: Table.model_validate(block) for name, block in content.items()}
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise ParameterError(f"{path}: {error.title} {place}: {problem['msg'].removeprefix('Value error, ')}") from None
    except RecursionError:
        raise ParameterError(f"{path}: nested too deeply to be read") from None
    except (UserError, YAMLError, AttributeError) as error:
        raise ParameterError(f"{path}: {' '.join(str(error).split())}") from None
    for name, table in loaded.items():
        try:
            models.task_of(table.model)
        except ValueError as error:
            raise ParameterError(f"{path}: {name}.model: {error}") from None
    return loaded


def chosen(table: Table, rows: list[str] | None, left_out: list[str]) -> dict[str, Row]:
    """The rows that a command line asks for, in the table's order."""
    for name in [*(rows or []), *left_out]:
        if name not in table.rows:
            raise ParameterError(f"no row {name!r}; there are {', '.join(table.rows)}")
    return {name: row for name, row in table.rows.items() if name in (rows or table.rows) and name not in left_out}


def hyperparameters(table: Table, row: Row, parameters: params.Params) -> dict[str, Any]:
    if table.model not in parameters.models:
        raise ParameterError(
            f"the table varies {table.model}, which params.yaml doesn't name; take its block from presets/labelled.yaml"
        )
    return parameters.models[table.model].hyperparameters | row.set


def require_trained(name: str, table: Table, parameters: params.Params) -> None:
    """Refuse a table whose network params.yaml doesn't train.

    A table carries no training of its own: how long a network trains belongs to the preset, and rows trained by another
    recipe than the one in params.yaml could not be set beside its other results.
    """
    block = parameters.models.get(table.model)
    if block is not None and block.training is not None:
        return
    having = [
        file
        for file in sorted(Path("presets").glob("*.yaml"))
        if (preset_block := params.load(file).models.get(table.model)) and preset_block.training
    ]
    where = f" (there is one in {' and '.join(map(str, having))})" if having else ""
    raise ParameterError(
        f"params.yaml: models.{table.model}.training is missing, which {name} ablates; add the block{where}, then `python -m commands.graph` and `make repro`"
    )


def require_buildable(name: str, table: Table, rows: dict[str, Row], parameters: params.Params) -> None:
    """Refuse before anything is queued what the network's constructor would refuse in hours from now."""
    for label, row in rows.items():
        try:
            models.create(table.model, **hyperparameters(table, row, parameters))
        except ValueError as error:
            raise ParameterError(
                f"{FILE}: {name}, row {label!r}: {error}; `--without '{label}'` leaves it out"
            ) from None


def experiment_name(name: str, label: str, table: Table, row: Row, parameters: params.Params) -> str:
    """Table, row, and the hash of all that the row's own numbers depend on: code, parameters, data."""
    task, model = models.task_of(table.model), table.model
    code = graph.closure("stages.train", "stages.infer", "stages.evaluate", f"models.{task}.{model}")
    content = parameters.model_dump(mode="json")
    content["models"][model]["hyperparameters"] = hyperparameters(table, row, parameters)
    read = [
        key
        for stage in ("train", "infer", "evaluate")
        for key in graph.read_parameters(f"stages.{stage}", task, model=model)
    ]
    digest = hashlib.sha256(json.dumps([[key, _at(content, key)] for key in read], sort_keys=True).encode())
    folders = [
        Path(dependency)
        for dependency in graph.stages_of(model, parameters)[f"infer-{model}"]["deps"]
        if dependency.startswith("data/")
    ]
    manifests = [file for folder in folders for file in sorted(folder.glob("*.parquet"))]
    for file in [*map(Path, code), *manifests]:
        digest.update(f"{file}:".encode() + hashlib.sha256(file.read_bytes()).digest())
    return f"{name}-{re.sub('[^A-Za-z0-9+]+', '-', label)}-{digest.hexdigest()[:6]}"


def run(name: str, table: Table, rows: dict[str, Row], jobs: int, parameters: params.Params) -> dict[str, str]:
    """Run what of these rows is neither done nor in the queue. Row -> commit of its experiment, for all of them.

    Raises UserError for rows that failed or still run when the showing was interrupted.
    """
    task, model = models.task_of(table.model), table.model
    names = {label: experiment_name(name, label, table, row, parameters) for label, row in rows.items()}
    stages = [f"models/dvc.yaml:train-{model}", f"models/dvc.yaml:infer-{model}", f"evaluate@{task}"]
    done, queued = dvc_queue.finished(), dvc_queue.waiting()
    if open_rows := [label for label, experiment in names.items() if experiment not in done]:
        if stale := dvc_queue.stale_stages(stages[-1], except_for=tuple(stages)):
            raise UserError(
                f"{stale[0]} is not up to date, and experiments start from its outputs; `dvc repro {stages[-1]}` first"
            )
        for label in open_rows:
            if names[label] not in queued:
                key = f"models.{model}.hyperparameters"
                dvc_queue.enqueue(
                    names[label],
                    stages,
                    [dvc_queue.override(f"{key}.{parameter}", value) for parameter, value in rows[label].set.items()],
                )
                LOG.info(f"{name}: queued {label} as {names[label]}")
        LOG.info(
            f"{name}: {len(rows) - len(open_rows)} of {len(rows)} rows are done; `dvc queue status` shows the others"
        )
        dvc_queue.run_queue(jobs)
        done = dvc_queue.finished()
    if missing := [label for label, experiment in names.items() if experiment not in done]:
        still = set(dvc_queue.waiting()) & {names[label] for label in missing}
        why = (
            "go on in the background (`dvc queue stop --kill` ends that); the same command waits for them"
            if still
            else f"failed; `dvc queue logs {names[missing[0]]}` says why"
        )
        raise UserError(f"{name}: {', '.join(missing)} {why}")
    return {label: done[experiment] for label, experiment in names.items()}


def collect(name: str, table: Table, commits: dict[str, str], parameters: params.Params) -> pd.DataFrame:
    """The rows' results out of their experiments, and the printed numbers beside them: columns as in COLUMNS."""
    frames = []
    for label, commit in commits.items():
        row = table.rows[label]
        about = {
            "table": name,
            "row": label,
            "model": table.model,
            "hyperparameters": json.dumps(_hyperparameters_of(commit, table.model), sort_keys=True),
            "experiment": experiment_name(name, label, table, row, parameters),
            "commit": commit,
        }
        rows = beside_published(ours(models.task_of(table.model), table.model, commit), table, row)
        frames += [about | record for record in rows.to_dict("records")]
    return tables.frame(frames, COLUMNS)


def ours(task: str, model: str, commit: str) -> pd.DataFrame:
    """What an experiment says of one model: subset, condition, metric, mean, low, high, n_images; "parameters" in millions
    among the metrics."""
    intervals = dvc_queue.read_table(commit, f"results/{task}/intervals.parquet").assign(condition="")
    breakdowns = dvc_queue.read_table(commit, f"results/{task}/breakdowns.parquet")
    buckets = (
        breakdowns[breakdowns["by"] == "hole_ratio_bucket"].assign(subset="All").rename(columns={"value": "condition"})
    )
    summary = dvc_queue.read_table(commit, f"results/{task}/summary.parquet")
    summary = summary[(summary["subset"] == "All") & (summary["split"] == "test")]
    size = summary[["model", "subset"]].assign(
        condition="", metric="parameters", mean=summary["n_parameters"] / 1e6, n=summary["n_images"]
    )
    measured = pd.concat([intervals, buckets, size], ignore_index=True)
    measured = measured[measured["model"] == model].rename(columns={"n": "n_images"})
    if measured.empty:
        raise UserError(f"experiment {commit[:7]}: results/{task} has no row for {model}")
    return measured[["subset", "condition", "metric", "mean", "low", "high", "n_images"]]


def beside_published(measured: pd.DataFrame, table: Table, row: Row) -> pd.DataFrame:
    """The rows of `ours` with `published` and `note`; and a row for what is printed that we don't measure."""
    printed = published.comparable(published.table())
    cell = row.published or Printed(table="", model="")
    printed = printed[
        (printed["paper"] == table.paper) & (printed["table"] == cell.table) & (printed["model"] == cell.model)
    ]
    if row.published and not (printed["subset"] == table.subset).any():
        raise ParameterError(
            f"{published.FILE.name} has nothing for {table.paper}, {cell.table}, {cell.model}, {table.subset}"
        )
    printed = printed[printed["subset"] == table.subset].assign(subset="All", metric=lambda frame: frame["ours_metric"])
    keys = ["subset", "condition", "metric"]
    merged = measured.merge(printed[[*keys, "published", "note"]], on=keys, how="outer", sort=False)
    return merged.assign(note=merged["note"].fillna(""), n_images=merged["n_images"].fillna(0).astype(int))


def shown(frame: pd.DataFrame, task: str) -> str:
    """The pooled headline metrics as text, a line per row of the table: ours, and the printed number in brackets."""
    pooled = frame[(frame["subset"] == "All") & (frame["condition"] == "")]

    def cell(part: pd.DataFrame) -> str:
        record = part.iloc[0]
        return f"{record['mean']:.4g}" + (f" ({record['published']:.4g})" if pd.notna(record["published"]) else "")

    wide = {(row, metric): cell(part) for (row, metric), part in pooled.groupby(["row", "metric"])}
    columns = ["parameters", *TASKS[task].metrics]
    text = pd.DataFrame(
        [[wide.get((row, metric), "") for metric in columns] for row in frame["row"].unique()],
        frame["row"].unique(),
        columns,
    )
    return text.to_string()


def _hyperparameters_of(commit: str, model: str) -> dict:
    content = YAML(typ="safe", pure=True).load(io.BytesIO(dvc_queue.read(commit, "params.yaml")))
    return content["models"][model]["hyperparameters"]


def _at(content, key: str):
    for part in key.split("."):
        content = content[part]
    return content
