"""The formats of data that ``trainwright new`` recognizes, one file for each kind."""
