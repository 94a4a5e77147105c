"""Dagster's instance: where its runs and events are stored, and what becomes of runs whose process died.

Nothing of the lake or of a source lives here.
"""
