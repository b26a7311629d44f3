"""Dataset distillation under one protocol: methods, scaling law, coverage law."""
