"""Assets and asset checks that several components build: bronze, change tables, reconciliation, contract checks.

`components.automation` decides when they run.
"""
