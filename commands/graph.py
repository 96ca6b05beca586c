"""Write the stages of params.yaml's methods into models/dvc.yaml, and names and code files into dvc.yaml.

In dvc.yaml the lines below its marks change: for which names of params.yaml a stage is repeated, data that not every
params.yaml has, and lists of code files. Command, data and parameters of a stage are written by hand there.
With --check nothing is written; the command then fails when a file is stale, or when params.yaml asks for what a
network, or this machine, can't do. With --explain NAME it prints the hyperparameters of one method.
"""

import shutil

from pipeline import atomic, command, params
from pipeline.errors import UserError
from pipeline.logs import LOG
from pipeline.running import graph, outside


def main(arguments) -> None:
    if arguments.explain:
        from pipeline.networks import explain

        print(explain.explain(arguments.explain))
        return
    parameters = params.load(graph.ROOT / "params.yaml")
    for line in outside.link(graph.ROOT, outside.paths_of(parameters)):
        LOG.warning(line)
    contents = graph.ROOT / graph.TABLE_OF_CONTENTS
    texts = {
        contents: graph.table_of_contents(contents.read_text(), parameters),
        graph.ROOT / graph.FILE: graph.written(parameters),
    }
    stale = [file for file, text in texts.items() if not file.exists() or file.read_text() != text]
    if arguments.check:
        from pipeline.networks import check  # torch, which writing the files does without

        check.check_methods(parameters)
        if stale:
            raise UserError(f"{stale[0].relative_to(graph.ROOT)} is stale; `python -m commands.graph` writes it anew")
        return
    for file in stale:
        with atomic.file(file) as path:
            path.write_text(texts[file])
    removable, foreign = graph.stale_outputs(parameters)
    for path in removable:
        LOG.info(f"removed {path.relative_to(graph.ROOT)}: params.yaml names no such method")
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in foreign:
        LOG.warning(
            f"kept {path.relative_to(graph.ROOT)}: it holds what no stage wrote, and params.yaml names no such method; give pictures "
            "made elsewhere a folder outside artifacts/ and name that as models.<name>.outputs"
        )


if __name__ == "__main__":
    parser = command.parser(__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail when a file is stale or a parameter can't work"
    )
    parser.add_argument(
        "--explain", metavar="NAME", help="print a method's hyperparameters: type, default, range, meaning"
    )
    command.run(main, parser.parse_args())
