"""Which metrics can be trusted: lenses on metrics, thresholds fixed beforehand, and verdicts."""
