"""`python -m minirsa` is the command line."""

from minirsa.cli import main

raise SystemExit(main())
