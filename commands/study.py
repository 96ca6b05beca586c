"""A blinded preference study: saved predictions -> one page to vote in; saved votes -> results/study/.

python -m commands.study make --models A B C -o study.html     also writes study.key.json: keep it from the raters
python -m commands.study score --key study.key.json VOTES...   votes, shares, pairs and Bradley-Terry scores
"""

import argparse
import json
from pathlib import Path
from typing import Any

from pipeline import atomic, command, tables
from pipeline.errors import ParameterError, UserError
from pipeline.logs import LOG
from pipeline.scoring.statistics import Resampling
from pipeline.study import page, preferences, votes

PARAMS = ()


def main(arguments) -> None:
    make(arguments) if arguments.command == "make" else score(arguments)


def make(arguments) -> None:
    out = Path(arguments.out)
    if out.suffix != ".html":
        raise ParameterError(f"{out}: the page is one HTML file; end its name in .html")
    study = page.make(
        arguments.models,
        index=Path("artifacts/index"),
        predictions=Path("artifacts/predictions"),
        split=arguments.split,
        design=arguments.design,
        n_images=arguments.images,
        chosen=arguments.choose,
        n_comparisons=arguments.comparisons,
        question=arguments.question,
        seed=arguments.seed,
    )
    key = out.with_suffix(".key.json")
    if key.exists() and votes.read_key(key)["study"] != study.key["study"]:
        raise UserError(
            f"{key} is the key of another study, whose votes can't be counted without it; give another name than {out}"
        )
    with atomic.file(out) as page_file, atomic.file(key) as key_file:
        page_file.write_text(study.html, encoding="utf-8")
        key_file.write_text(json.dumps(study.key, indent=1) + "\n", encoding="utf-8")
    n_images = len({picture["image_id"] for picture in study.key["pictures"].values()})
    print(
        f"{out}: {len(study.key['comparisons'])} comparisons on {n_images} images for each rater; what is what stands in {key}"
    )


def score(arguments) -> None:
    if arguments.resamples < 1 or not 0 < arguments.level < 1:
        raise ParameterError(
            f"--resamples {arguments.resamples} --level {arguments.level}: expected 1 or more, and a share between 0 and 1"
        )
    key = votes.read_key(Path(arguments.key))
    rows, rejected = votes.read([Path(path) for path in arguments.files], key)
    for rejection in rejected:
        LOG.warning(f"{rejection['file']}: {rejection['reason']}")
    if rejected and not arguments.leave_out:
        raise UserError(
            f"{len(rejected)} of {len(arguments.files)} files can't be counted; take them away, or --leave-out counts the others"
        )
    if not rows:
        raise UserError("no file holds votes of this study")
    resampling = Resampling(arguments.seed, arguments.resamples, arguments.level)
    cast = tables.frame(rows, votes.VOTES)
    made = {
        "votes": cast,
        "raters": votes.raters(cast, key),
        "shares": preferences.shares(cast, resampling),
        "rejected": tables.frame(rejected, {"file": str, "reason": str}),
    }
    if key["design"] == "pairs":
        made |= {
            "pairs": preferences.pairs(cast, key["models"]),
            "scores": preferences.scores(cast, key["models"], resampling),
        }
    with atomic.folder(arguments.out) as out:
        for name, table in made.items():
            tables.write(out / f"{name}.parquet", table)
    print((made["scores"] if "scores" in made else made["shares"]).to_string(index=False))


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True, metavar="make|score")
    shows_defaults: dict[str, Any] = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter}
    maker = commands.add_parser("make", help="write the page and its key", **shows_defaults)
    maker.add_argument(
        "--models", nargs="+", required=True, help="methods to compare, all of harmonization or all of inpainting"
    )
    maker.add_argument("-o", "--out", required=True, help="HTML file to write; the key goes beside it")
    maker.add_argument("--split", default="test", help="test, or a real set")
    maker.add_argument(
        "--design", choices=list(page.DESIGNS), default="pairs", help="choose one of two, or the best of all methods"
    )
    maker.add_argument("--images", type=int, default=20, help="how many images are drawn")
    maker.add_argument("--choose", nargs="+", metavar="ID", help="these images, not drawn ones")
    maker.add_argument("--comparisons", type=int, help="at most so many for each rater")
    maker.add_argument(
        "--question", help="what raters are asked, if not which picture looks more (most) like an untouched photograph"
    )
    maker.add_argument("--seed", type=int, default=0, help="draws images and names")
    scorer = commands.add_parser("score", help="count saved votes", **shows_defaults)
    scorer.add_argument("files", nargs="+", help="files that raters saved")
    scorer.add_argument("--key", default="study.key.json", help="the key of the page they voted in")
    scorer.add_argument(
        "--leave-out",
        action="store_true",
        help="go on without files that can't be counted; rejected.parquet names them",
    )
    scorer.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples of the raters")
    scorer.add_argument("--level", type=float, default=0.95, help="confidence of the intervals")
    scorer.add_argument("--seed", type=int, default=0, help="of the resamples")
    scorer.add_argument("--out", default="results/study", help="folder to write")
    command.run(main, parser.parse_args())
