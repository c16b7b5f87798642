"""The network: frames and expressions in, masks out. It imports no other room of sgmg."""
