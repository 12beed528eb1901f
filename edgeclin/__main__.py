"""`python -m edgeclin`."""

from edgeclin.cli import main

main()
