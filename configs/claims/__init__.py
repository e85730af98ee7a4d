"""The comparisons that the claims read, one file each."""
