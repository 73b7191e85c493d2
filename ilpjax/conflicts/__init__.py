"""Rows that contradict each other: near in meaning, and their answers differ."""
