"""Sensors, schedules and what they share: when a source is read, when silence is reported, how a canceled run ends.

`components.assets` holds what a run materializes.
"""
