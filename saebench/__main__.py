"""``python -m saebench`` runs the command line."""

from saebench.cli import main

main()
