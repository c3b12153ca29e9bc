"""The panel that applies, inverts, combines, loads and saves transforms."""
