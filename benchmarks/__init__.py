"""Reproducible benchmarks: the pipeline beside its peers, on this machine. `make bench`; results in docs/figures.md.

Each module named in `__main__` is one benchmark with one `run`. What is timed runs in processes of its own
(`contenders`), which import nothing of this package, so that a figure holds what the contender costs and no more.
"""
