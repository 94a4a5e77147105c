"""Dagster's instance: where its runs and events are stored, and what happens to runs whose process died.

Nothing about the lake or a source lives here.
"""
