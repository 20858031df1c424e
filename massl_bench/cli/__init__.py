"""The command line: parse, call, print. Results go to stdout, everything else to stderr.

One module a command, or a group of them; `application` puts them together.
"""

import sys


def main() -> None:
    """Runs the command line; a signal means the same from here on as while a command works."""
    from massl_bench.cli.stopping import INTERRUPTED, signals

    with signals.handled():
        try:
            from massl_bench.cli.application import main as run
        except KeyboardInterrupt:  # in the first tenths of a second
            print("error: interrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)
        run()
