"""Rows by their prompt and response."""

import pytest

from ilpjax.rows import Message, Row


@pytest.fixture
def row():
    def make(prompt, response, position=0):
        messages = (Message("user", prompt), Message("assistant", response))
        return Row(row_id=f"r{position}", messages=messages, dataset="d", position=position, source=f"d:{position}")

    return make
