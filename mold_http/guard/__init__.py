"""Checks that refuse a request before it reaches a handler: host and origin, key, rate, size, time."""
