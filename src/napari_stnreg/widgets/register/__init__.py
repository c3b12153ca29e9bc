"""The panel that registers two layers."""
