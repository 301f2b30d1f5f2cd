"""Fault and abuse: what the toolkit does when machines die, files rot and people are hostile."""
