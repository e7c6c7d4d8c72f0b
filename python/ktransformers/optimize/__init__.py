"""Injection of operators into Transformers models."""
