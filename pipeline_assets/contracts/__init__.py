"""Contracts: what each table promises, as one Pandera model per table, and what is derived from it.

Holds the models (one module per source) and `base`, which derives raw shapes, column schemas and checks. Does not hold
SQL, and imports neither Dagster nor dbt.
"""
