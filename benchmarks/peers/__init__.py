"""Peers that need an environment of their own. What runs there imports nothing of ours but `lines`."""
