"""The panel that compares two layers."""
