"""Measurements, each one command and one table: python -m benchmarks.store, .train, .prepare, …"""
