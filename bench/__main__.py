"""`python -m bench ...` is `amsrc-bench ...`."""

from bench.cli.main import main

raise SystemExit(main())
