"""Networks that turn frames into four maps of features; they import nothing of the rest of sgmg."""
