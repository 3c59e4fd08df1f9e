"""How fast every stage is on this machine, next to its limit and to a plain reference."""
