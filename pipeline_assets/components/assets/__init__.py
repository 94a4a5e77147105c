"""Assets and asset checks that several components build: bronze, change tables, reconciliation, contract checks.

When they run is in `automation`.
"""
