"""Many runs: the grid, the search, their trials on the cluster, hours and cost, the live table."""
