"""The spatial transformer explorer: a lecture's pictures, alive."""
