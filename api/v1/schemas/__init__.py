"""Requests and responses of version 1: one module per resource, named as the module of its endpoints."""
