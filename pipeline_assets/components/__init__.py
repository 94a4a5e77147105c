"""Dagster components: the declarations that a team writes in `defs/<name>/defs.yaml`. The one place where Dagster
meets the domain code. `dg list components` shows them, `dg scaffold defs <type> <name>` writes a new declaration.
"""

from pipeline_assets.components.alerts import Alerts
from pipeline_assets.components.landing import LandingFiles
from pipeline_assets.components.transform import DbtModels

__all__ = ["Alerts", "DbtModels", "LandingFiles"]
