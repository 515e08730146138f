"""hwsim: number formats and accelerator datapaths, emulated bit for bit in PyTorch training."""
