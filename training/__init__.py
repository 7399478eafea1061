"""Training: sets of labels with the features that were, or should have been, served."""
