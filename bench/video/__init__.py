"""Any video scored by a trained method and drawn."""
