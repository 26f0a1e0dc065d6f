"""`python -m dvm`: the command line, where the console script is not on the path."""

from dvm.cli import main

main()
