"""`python -m attnc`."""

from attnc.cli import main

main()
