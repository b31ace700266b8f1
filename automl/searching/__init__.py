"""The search: one driver that owns the study, asks, reports and tells. Knows Optuna."""
