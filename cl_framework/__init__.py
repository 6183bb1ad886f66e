"""Continual learning and unlearning on frozen transformers: learn and forget in one stream."""

from cl_framework.threads import let_idle_ones_sleep

let_idle_ones_sleep()
