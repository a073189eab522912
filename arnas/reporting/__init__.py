"""Reporting: tables and figures from what the stages left."""
