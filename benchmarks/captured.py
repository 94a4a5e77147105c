"""The captured table that the benchmarks of change data capture share: customers of the shop's database."""

from pipeline_assets.contracts.base import contract
from pipeline_assets.ingest.cdc.table.change_table import ChangeTable

SLOT = "bench"
PUBLICATION = "pipeline_assets"
UPDATES = 200_000
CUSTOMERS = ChangeTable("public.customers", "shop_db__customers", contract("shop_db.Customers"), ("customer_id",))
