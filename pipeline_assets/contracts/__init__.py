"""Contracts: what each table promises, as one Pandera model per table, and what is derived from the models.

`models` holds the models, one module per source. `base` derives raw shapes, column schemas and checks from a model;
`validation` checks the rows of a query; `changes` and `pulled` build the contracts of silver from those of a source's
rows. The package holds no models' SQL, and imports neither Dagster nor dbt.
"""
