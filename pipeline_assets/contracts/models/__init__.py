"""The contracts of the tables: one module per source, one Pandera model per table.

What is derived from a model is in `pipeline_assets.contracts`.
"""
