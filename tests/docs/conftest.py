"""Fixtures that the tests of the documentation share."""

from doc_examples import example_contracts  # noqa: F401  # a fixture
