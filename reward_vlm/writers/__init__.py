"""Training rows out of what models did: splices, hard negatives, prefix labels, critics, own answers."""
