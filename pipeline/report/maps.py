"""A gallery of what networks draw on their way to a prediction, for those that say so (Model.maps)."""

from pipeline import tables
from pipeline.report.numbers import Results
from pipeline.report.sheets import Shown, encode
from pipeline.scoring import predictions as saved

FOLDER = "maps@test"
"""As pipeline/networks/intermediate.py writes it."""


def gallery(results: Results, shown: Shown) -> list[dict]:
    """For each method with saved maps, in the order of the page: model, trained and rows of image_id and tiles (name, source),
    which are the input, the maps, the output and the truth."""
    made = []
    for model in results.order:
        folder = shown.predictions / model / FOLDER
        if not (folder / "maps.parquet").is_file():
            continue
        rows = []
        for image_id, part in tables.read(folder / "maps.parquet").groupby("image_id", sort=False):
            size = shown.item(image_id)[shown.task.picture].shape[:2]
            tiles = [("input", shown.start(image_id))]
            tiles += [(row.map, saved.read(folder / row.prediction, row.sha256, size)) for row in part.itertuples()]
            tiles += [("output", shown.output(model, image_id))]
            tiles += [("truth", shown.truth(image_id))] if shown.task.truth in shown.item(image_id) else []
            rows.append(
                {
                    "image_id": image_id,
                    "tiles": [{"name": name, "source": encode(picture, 192)} for name, picture in tiles],
                }
            )
        made.append({"model": model, "trained": results.methods[model]["trained"], "rows": rows})
    return made
