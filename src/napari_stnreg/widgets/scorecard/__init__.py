"""The panel that scores a registration."""
