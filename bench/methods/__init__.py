"""The methods: what each is (`catalogue`, without torch), how the harness sees one (`interface`), a module a family."""
