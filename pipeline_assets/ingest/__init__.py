"""Ways in: how records leave a source and become rows that fit a contract, or dead letters.

Holds reading and conforming. Does not hold table writes (`lake`), contracts (`contracts`) or anything of Dagster.
"""
