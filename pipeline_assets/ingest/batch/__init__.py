"""The spine of all ways in: a batch becomes rows and dead letters, committed once with the position it ends at.

What is read, and how far, is each source's (`files`, `database`, `rest`, `cdc`).
"""
