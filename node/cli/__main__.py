"""`python -m node.cli` is `medchain`."""

from node.cli import main

main()
