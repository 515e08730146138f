"""What a number is: formats, rounding, codes, and the backends that round tensors."""
