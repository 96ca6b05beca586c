"""What commands.claim prints of a table from elsewhere."""

import pytest


def table(project, photographs: int, **means: float) -> str:
    """A CSV whose methods score 1 above and 1 below their means in turns."""
    lines = ["image,method,psnr"]
    for number in range(photographs):
        lines += [f"c{number}_1_1.jpg,{name},{mean + (-1) ** number}" for name, mean in means.items()]
    (project.folder / "scores.csv").write_text("\n".join(lines) + "\n")
    return "scores.csv"


@pytest.mark.parametrize(
    "claim, photographs, verdict, why",
    [
        ("a > b", 8, "supported", None),
        ("a < b", 8, "contradicted", None),
        ("a > b", 5, "not decidable", "5 photographs don't decide it, as fewer than 6 never do at 95%; about 6 would"),
        ("a < same", 8, "not decidable", "8 photographs don't decide it; the means are equal"),
    ],
)
def test_answers(project, claim, photographs, verdict, why):
    file = table(project, photographs, a=30.5, b=30.0, same=30.5)
    done = project.run("claim", claim, "--metric", "psnr", "--table", file)
    assert done.code == 0, done.err
    first, second, *rest = done.out.splitlines()
    assert first == f"{claim} in PSNR: {verdict}"
    assert f"(95% interval, {photographs} images of {photographs} photographs, All)" in second
    assert len(rest) == (why is not None) and all(line.startswith(why) for line in rest)
