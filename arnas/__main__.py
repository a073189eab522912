"""`python -m arnas`."""

from arnas.cli import main

main()
