"""Where panels are docked, the help in them, and the key that they share."""
