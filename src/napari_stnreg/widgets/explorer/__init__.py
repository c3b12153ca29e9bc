"""The spatial transformer explorer: interactive figures for teaching."""
