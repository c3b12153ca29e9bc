"""The commands of ``stnreg``, one module each; a new one also gets its line in ``COMMANDS`` of ``cli/app.py``."""
