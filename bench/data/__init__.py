"""Data sets: their facts, readers, checks and downloads; videos to cube stores."""
