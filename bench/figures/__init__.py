"""Figures in one style, drawn from records or from pixels."""
