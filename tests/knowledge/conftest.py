"""Rows by their prompt and response; an endpoint."""

import pytest
from endpoint_server import Server

from ilpjax.rows import Message, Row


@pytest.fixture
def row():
    def make(prompt, response, position=0):
        messages = (Message("user", prompt), Message("assistant", response))
        return Row(row_id=f"r{position}", messages=messages, dataset="d", position=position, source=f"d:{position}")

    return make


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()
