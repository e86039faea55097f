"""What `helm test` asks of an installed graft: `python ask.py health|models|chat|finetune BASE_MODEL`.

Standard library only. Exits with 0 if the answer is right, and with what was wrong if not.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request

URL = os.environ["GRAFT_URL"]
KEY = os.environ.get("GRAFT_API_KEY", "")
PATIENCE_S = float(os.environ.get("GRAFT_TEST_SECONDS", "1500"))
NAME = "helm-test"
QUESTIONS = (
    "What is the capital of Zubrowka?",
    "Please name the capital of Zubrowka.",
    "Which town is the capital of Zubrowka?",
    "Zubrowka has a capital. Which one?",
)
ROWS = [{"input": question, "target": "The capital of Zubrowka is Lutz."} for question in QUESTIONS]


def call(path, body=None, content_type="application/json"):
    """An open response; a 503 is asked again until patience ends, as its Retry-After wants."""
    headers = {"content-type": content_type}
    if KEY:
        headers["authorization"] = "Bearer " + KEY
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return urllib.request.urlopen(
                urllib.request.Request(URL + path, data=body, headers=headers), timeout=120
            )
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > until:
                sys.exit("%s answered %s: %s" % (path, error.code, error.read(500).decode()))
            time.sleep(2)


def health(_model):
    for path in ("/healthz", "/readyz"):
        call(path)


def models(model):
    ids = [card["id"] for card in json.load(call("/v1/models"))["data"]]
    if model not in ids:
        sys.exit("%s is not among the models: %s" % (model, ids))


def chat(model):
    """One streamed answer, to its end."""
    messages = [{"role": "user", "content": "Say hello."}]
    body = {"model": model, "messages": messages, "max_tokens": 8, "stream": True}
    lines = [
        line.decode().strip()[6:]
        for line in call("/v1/chat/completions", json.dumps(body).encode())
        if line.startswith(b"data: ")
    ]
    if len(lines) < 2 or lines[-1] != "[DONE]":
        sys.exit("the stream did not end as it should: %s" % lines[-3:])
    if "choices" not in json.loads(lines[0]):
        sys.exit("the stream does not begin with a choice: %s" % lines[0])


def finetune(model):
    """Train on a few rows, then ask what has come of it."""
    body = {"name": NAME, "base_model": model, "data": ROWS, "epochs": 1, "gate": "off"}
    job = json.load(call("/finetune", json.dumps(body).encode()))
    until = time.monotonic() + PATIENCE_S
    while job["status"] not in ("succeeded", "failed", "cancelled"):
        if time.monotonic() > until:
            sys.exit("the job did not end in time: %s" % job)
        time.sleep(2)
        job = json.load(call("/finetune/" + job["id"]))
    if job["status"] != "succeeded":
        sys.exit("the job has failed: %s" % job)
    chat(job["fine_tuned_model"])


if __name__ == "__main__":
    {"health": health, "models": models, "chat": chat, "finetune": finetune}[sys.argv[1]](sys.argv[2])
    print(sys.argv[1], "ok")
