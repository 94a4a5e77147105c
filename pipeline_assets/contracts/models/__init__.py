"""The contracts of the tables: one module per source, one Pandera model per table.

`pipeline_assets.contracts.base` holds what is derived from a model.
"""
