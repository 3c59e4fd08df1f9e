"""`python -m bench ...` is `amsrc-bench ...`."""

from bench.cli import main

raise SystemExit(main())
