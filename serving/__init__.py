"""Readers of fresh features."""
