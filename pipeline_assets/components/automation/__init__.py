"""Sensors, schedules and what they share: when a source is read, when silence is reported, how a canceled run ends.

What a run materializes is in `assets`.
"""
