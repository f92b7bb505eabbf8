"""One evaluation, from checkpoint to record."""
