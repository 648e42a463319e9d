"""Benchmarks, each one command that prints one table: python -m benchmarks.store, .train, .prepare, …"""
