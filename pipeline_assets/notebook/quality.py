"""`DataQualityFramework`: checks a frame against a contract, as the asset checks do. Contracts are in `contracts`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import pandera.polars as pa
import polars as pl

from pipeline_assets.contracts.base import Case, ContractError, Model, contract, validate
from pipeline_assets.notebook.frames import METADATA, NotebookError, columns_of, polars_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class QualityResult:
    """The outcome of one validation; it is true if nothing failed.

    Attributes:
        success: Whether nothing failed.
        suite_name: The contract, as it was asked for.
        data_asset_name: The name given to what was validated.
        rows: Number of rows that were validated.
        failures: Number of failures: failing cells, and failures of the whole frame such as a missing column.
        failing_rows: Number of rows with at least one failure.
        failing_cases: The first failures, at most `contracts.base.MAX_CASES`.
        by_check: "column: check" to number of failures.
    """

    success: bool
    suite_name: str
    data_asset_name: str
    rows: int
    failures: int = 0
    failing_rows: int = 0
    failing_cases: tuple[Case, ...] = ()
    by_check: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.success

    def __str__(self) -> str:
        head = f"{self.data_asset_name} by {self.suite_name}: {self.rows:,} rows"
        if self.success:
            return f"{head}, all as they should be"
        return "\n".join(
            [
                f"{head}, {self.failing_rows:,} of them fail, {self.failures:,} failures",
                *(f"  {number:>6,}  {check}" for check, number in self.by_check.items()),
                *(f"  {_where(case)} {case.value!r}: {case.check}" for case in self.failing_cases),
            ]
        )


class DataQualityFramework:
    """Validates frames against contracts: those of the package, and those that a notebook adds in its process."""

    _suites: ClassVar[dict[str, Model]] = {}

    @classmethod
    def add_suite(cls, name: str, model: Model) -> None:
        """Give a contract a name until the process ends. The same name again replaces it.

        Args:
            name: The name for `validate_dataframe`.
            model: A `pandera.polars.DataFrameModel`, also for pandas frames, which are converted.

        Raises:
            NotebookError: The model is of another class, or a contract of the package has this name.
        """
        if not (isinstance(model, type) and issubclass(model, pa.DataFrameModel)):
            raise NotebookError(f"suite {name}: give a class of pandera.polars.DataFrameModel, not {model!r}")
        try:
            contract(name)
        except ContractError:
            cls._suites[name] = model
        else:
            raise NotebookError(f"suite {name}: a contract of the package has this name: choose another one")

    def validate_dataframe(
        self, df: "pl.DataFrame | pd.DataFrame", suite_name: str, data_asset_name: str
    ) -> QualityResult:
        """Validate a frame. Failures are in the result, never raised.

        Args:
            df: A frame of polars or pandas. `_extracted_at` and `_source` count only for a model that has them.
            suite_name: A contract such as `shop.InvoiceLines`, a table such as `silver.invoice_lines`, or a name given
                to `add_suite`.
            data_asset_name: A name of the frame, for the result.

        Raises:
            NotebookError: There is no such suite, or the frame cannot be used.
        """
        model = self._suites.get(suite_name) or self._packaged(suite_name)
        known = model.to_schema().columns
        columns = [column for column in columns_of(df) if column.name in known or column.name not in METADATA]
        found = validate(model, [polars_of(columns)])
        return QualityResult(
            found.passed, suite_name, data_asset_name, found.rows, found.failures, found.failing_rows, found.cases,
            found.by_check,
        )  # fmt: skip

    def _packaged(self, name: str) -> Model:
        try:
            return contract(name)
        except ContractError as error:
            added = f"; added: {', '.join(sorted(self._suites))}" if self._suites else ""
            raise NotebookError(
                f"{error}{added}. Add your own: DataQualityFramework.add_suite({name!r}, YourModel)"
            ) from None


def _where(case: Case) -> str:
    place = case.column or "the frame"
    return place if case.row is None else f"{place}, row {case.row}"
