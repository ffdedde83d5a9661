"""The patterns of the library, defined a second time: in numpy, from the papers and the authors' code."""
