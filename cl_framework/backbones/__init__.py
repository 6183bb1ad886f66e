"""Families of frozen backbones, and the weights of the embedded one."""
