"""The demo: a drawn town, a fine-tuning on it, and a page that shows what came of it."""
