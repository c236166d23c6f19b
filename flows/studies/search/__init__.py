"""The flow `search`: the settings of a run recipe that give the lowest held-out loss, found with Optuna."""
