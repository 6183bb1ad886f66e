"""Learning and unlearning strategies; subpackages are found by entry points, files by being there."""
