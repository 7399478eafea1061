"""The outside contract: Avro schemas, codec, rules, compatibility, and the client for people who publish events."""
