"""Data sets: small ones that ship with Python packages, files in known formats, and synthetic ones. Nothing downloads."""
