"""`python -m massl_bench`."""

from massl_bench.cli import main

main()
