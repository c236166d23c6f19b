"""What work costs: device hours, energy, carbon and money, from what was measured of it."""

from pipeline.costs.account import Cost, account, cost_of, total
from pipeline.costs.journal import journal_facts
from pipeline.costs.settings import CostSettings

__all__ = ["Cost", "CostSettings", "account", "cost_of", "journal_facts", "total"]
