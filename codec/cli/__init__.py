"""The command `aez`: one verb a file.  Each parses its options, runs a command and prints its
events:

    screen = Screen(quiet)
    result = screen.run(compress(inputs, out, options=options))   # a bar, notes, failures
    screen.finish(result, figures, summary)                       # one line or JSON; the exit code

Exit codes: 0 all good; 1 nothing done; 2 usage; 3 finished, some inputs failed (each named on
stderr); 4 a damaged stream; 130 interrupted. Results go to stdout, messages to stderr, one line
each, never a traceback.

READ ME FIRST: numpy, Pillow and the codec are imported inside the verbs, so that `aez --help` is
fast, and torch only inside `train`. typer vendors click, so nothing is imported from click; and
`typer.Exit` is a RuntimeError, so `except Exception` here would turn failure into success.
"""


def main() -> None:
    """Entry point of `aez`."""
    import gc

    gc.set_threshold(100_000)  # imports make many objects and hardly any garbage
    from codec.cli.app import main as run

    run()
