"""Methods of fine-tuning side by side: a grid of cells, each trained and scored, and the report of what they reach."""
