# A webhook receiver in Python 3.9 or newer. Run: WEBHOOK_SECRET=… python receiver.py 8001
import hashlib
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ["WEBHOOK_SECRET"]
TOLERANCE_SECONDS = 300
processed = set()  # use your database: a webhook may come again


def is_authentic(body, header):
    """Return True if the body was signed with the secret within the last five minutes."""
    entries = dict(entry.strip().split("=", 1) for entry in header.split(",") if "=" in entry)
    timestamp = entries.pop("t", "")
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    expected = hmac.new(SECRET.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    # During a rotation there are two signatures: one of them is made with your secret.
    return any(hmac.compare_digest(expected.encode(), received.encode()) for received in entries.values())


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        # The signature covers the bytes as they came: verify them before you parse them.
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not is_authentic(body, self.headers.get("Webhook-Signature", "")):
            return self.respond(401, "the signature is not right")
        webhook_id = self.headers["Webhook-Id"]
        if webhook_id not in processed:
            processed.add(webhook_id)
            print("received", json.loads(body)["event"], flush=True)
        return self.respond(200, "received")

    def respond(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
