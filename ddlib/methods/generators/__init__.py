"""Diffusion models that images are drawn from: a small UNet trained here, or a DiT pipeline.

diffusers is imported where it is used: that takes seconds, and most studies do without.
"""
