"""Diffusion: paths from noise to data, what a network predicts on them, and samplers.

Everywhere t = 0 is noise and t = 1 is data, and sigma = (noise scale) / (data scale) at time t.
"""
