"""A real server on this machine that behaves in every way one can."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


class Server:
    """Answers with `script`, an entry a request, the last one again and again; keeps what it was sent.

    An entry is a text, a status, a trouble by its name, or a function of the prompt that gives one of these.
    """

    def __init__(self):
        self.script, self.seen, self.usage = [""], [], None
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.seen.append(body)
                    act = outer.script[min(len(outer.seen), len(outer.script)) - 1]
                outer.reply(self, act(body["messages"][0]["content"]) if callable(act) else act)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def reply(self, handler, act):
        if act == "hang":
            time.sleep(2)
            return
        if act == "close":
            handler.connection.close()
            return
        message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": act}}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [message]}
        body = json.dumps(reply | ({"usage": self.usage} if self.usage else {}))
        body = {"not json": "<html>", "no choices": "{}", "empty choices": '{"choices": []}'}.get(act, body).encode()
        handler.send_response(act if isinstance(act, int) else 200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        if isinstance(act, int):
            handler.send_header("Retry-After", "0.01")
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2] if act == "torn" else body)
