"""Records to Table 1, Table 2 and the others, as Markdown, LaTeX and CSV."""
