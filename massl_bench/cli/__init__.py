"""The command line: parse, call, print. Results go to stdout, everything else to stderr.

One module a command, or a group of them; `application` puts them together.
"""

from massl_bench.cli.application import app, main

__all__ = ["app", "main"]
