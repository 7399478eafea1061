"""The embedded Kafka, schema registry and Redis of a laptop or a test: no Docker, no Java installed, no account."""
