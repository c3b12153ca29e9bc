"""The commands of ``stnreg``, one module each."""
