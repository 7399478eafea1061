"""The stream worker: Faust transport and agents around a batch loop of our own."""
