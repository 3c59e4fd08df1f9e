"""The methods: what each is, how the harness sees one, a module a family."""
