"""Whether the metrics themselves can be trusted: lenses on metrics, thresholds, verdicts."""
