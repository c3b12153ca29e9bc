"""The panel that registers many pairs."""
