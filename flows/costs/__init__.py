"""What work costs: device hours, energy, carbon and money, before it is done and after."""

from pipeline.costs import Cost, CostSettings, account, cost_of, journal_facts, total

__all__ = ["Cost", "CostSettings", "account", "cost_of", "journal_facts", "total"]
