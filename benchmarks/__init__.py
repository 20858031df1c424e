"""What this project does, beside what a user would pick instead, in one run (`python -m benchmarks` lists them).

Each module defines `SUMMARY`, one line, and `run(quick) -> list[Comparison]`: calls that take turns on the same data
and threads. `measure.py` times them; `__main__.py` finds, runs and prints them.
"""
