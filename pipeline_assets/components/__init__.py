"""Dagster components: the one place where Dagster meets the domain code.

A team declares a source with a component in `defs/<name>/defs.yaml`. `dg list components` shows the components, `dg
scaffold defs <type> <name>` writes a new declaration.
"""

from pipeline_assets.components.alerts import Alerts
from pipeline_assets.components.change_files import ChangeFiles
from pipeline_assets.components.change_stream import ChangeStream
from pipeline_assets.components.database_table import DatabaseTable
from pipeline_assets.components.dbt_models import DbtModels
from pipeline_assets.components.landing_files import LandingFiles
from pipeline_assets.components.rest_resource import RestResource

__all__ = ["Alerts", "ChangeFiles", "ChangeStream", "DatabaseTable", "DbtModels", "LandingFiles", "RestResource"]
