"""`aez test`."""

from __future__ import annotations

from codec.cli import options as opt
from codec.cli.printing import Screen, images

EXAMPLES = (
    ("aez test digits.aez", "says ok, or what is damaged"),
    ("aez test results/", "all streams in a folder"),
    ("aez test digits.aez --json", "the same for programs"),
)


def check(
    files: opt.Streams,
    model: opt.Foreign = None,
    jobs: opt.Jobs = None,
    as_json: opt.Json = False,
) -> None:
    """Decode and check everything, write nothing.

    Exit code 4: something is damaged, and stderr says what.
    """
    screen = Screen()
    from codec.commands import check as command

    result = screen.run(command.check(files, model, jobs=opt.cores(jobs)))
    figures = {"files": len(result.whole), "images": result.images}
    summary = [f"{name}: ok, {images(number)}" for name, number in result.whole]
    screen.finish(result, figures, summary, as_json=as_json)
