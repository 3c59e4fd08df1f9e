"""A run as a value: its configuration, the recipes that make it, the rules that choose."""
