"""Drawing characters from fonts."""
