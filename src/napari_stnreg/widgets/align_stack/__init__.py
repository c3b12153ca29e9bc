"""The panel that aligns a stack of sections."""
