"""What other programs do with the same weights, each called as its authors would call it."""
