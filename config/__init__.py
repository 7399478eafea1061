"""Settings, and the declared list of metrics. The environment is read here and nowhere else."""
