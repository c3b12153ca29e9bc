"""The panel that registers two layers by landmarks."""
