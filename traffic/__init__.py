"""Events to feed a shop with: a seeded simulator, the REES46 sample, a paced sender, a log of what was acknowledged."""
