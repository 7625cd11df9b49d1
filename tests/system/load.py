"""A steady load, as a program: `load.py PORT MODEL CLIENTS`, until its input ends.

Prints one JSON list: for each request when it was begun and answered (CLOCK_MONOTONIC, the same in
every container), and what went wrong, if anything did.
"""

import http.client
import json
import sys
import threading
import time


def ask(port: int, model: str) -> str | None:
    """Send one request on a connection of its own; return what went wrong."""
    body = {"model": model, "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 4}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        text = response.read()
    except OSError as error:
        return repr(error)
    except http.client.HTTPException as error:
        return repr(error)
    finally:
        connection.close()
    return None if response.status == 200 and json.loads(text)["choices"] else repr(text[:300])


def main() -> None:
    """Ask until standard input ends."""
    port, model, clients = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    is_over = threading.Event()
    asked: list[tuple[float, float, str | None]] = []

    def go_on() -> None:
        while not is_over.is_set():
            begun = time.monotonic()
            problem = ask(port, model)
            asked.append((begun, time.monotonic(), problem))

    threads = [threading.Thread(target=go_on) for _ in range(clients)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    is_over.set()
    for thread in threads:
        thread.join()
    print(json.dumps(asked))  # noqa: T201 (its answer)


if __name__ == "__main__":
    main()
