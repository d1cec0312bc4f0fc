"""A stub of an OpenAI-compatible endpoint, and a file of human scores."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product

import pytest

from minislm.scoring.rules import measure

CRITERIA = ("Grammar_A", "Creativity_A", "Plot_A", "Plot_B", "Context-Tracking_A")
GOOD = '{"grammar": 8, "creativity": 6.5, "context": 7, "plot": 5, "age": "C"}'


@pytest.fixture
def stub():
    """A local endpoint. It sends the answers of `script` in order, the last one repeatedly: a text,
    (status, text), bytes instead of a completion, or a GOOD one after so many seconds."""

    class Stub(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append((self.path, self.headers, body))
            step = server.script.pop(0) if len(server.script) > 1 else server.script[0]
            if isinstance(step, float):
                time.sleep(step)
                step = (200, GOOD)
            status, text = step if isinstance(step, tuple) else (200, step)
            answer = text if isinstance(text, bytes) else json.dumps({
                "choices": [{"message": {"content": text}}], "usage": {"total_tokens": 100},
            }).encode()  # fmt: skip
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            try:
                self.wfile.write(answer)
            except OSError:
                pass  # the judge's timeout was shorter

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    server.requests, server.script = [], [GOOD]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def human_scores(tmp_path):
    """A CSV file of human scores: those of the rules / 10, for Plot with the opposite sign."""
    prompts = ["It was a day.", "A dog ran home.", "The sun was warm.", "Tom saw a red ball."]
    texts = ["He ran and", "They was sad. A dog named Gus sat. The sun and the ball were warm.",
             "He saw a apple. It was red. It was red. The dog was red.",
             "She ran home. She was glad. The sun was warm."]  # fmt: skip
    lines = ["ID,category,prompt,completion," + ",".join(f"{name}_score" for name in CRITERIA)]
    for category in dict.fromkeys(name.rpartition("_")[0] for name in CRITERIA):
        dimension = {"Context-Tracking": "context"}.get(category, category.lower())
        for prompt, text in product(prompts, texts):
            value = getattr(measure(prompt, text), dimension) / 10
            value = -value if category == "Plot" else value
            cells = [f"{value}" if name.startswith(category) else "" for name in CRITERIA]
            lines.append(f"1,{category},{prompt},{text},{','.join(cells)}")
    path = tmp_path / "human.csv"
    path.write_text("\n".join(lines) + "\n")
    return path
