"""One evaluation on many processes or machines: units of work, a pool of local processes, and Ray."""
