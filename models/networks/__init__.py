"""Networks that the catalogue trains."""
