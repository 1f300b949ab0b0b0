"""In a process of its own: llama.cpp's server over a GGUF base and one GGUF adapter.

Reads JSON {model, adapter, ids, scales} and prints the ids that it generates at each scale.
"""

import json
import sys
from urllib.request import Request, urlopen


def main() -> None:
    import xllamacpp

    task = json.load(sys.stdin)
    params = xllamacpp.CommonParams()
    params.model.path = task["model"]
    params.n_ctx, params.n_parallel, params.warmup = 512, 1, False
    params.cpuparams.n_threads = 1
    info = xllamacpp.CommonAdapterLoraInfo()
    info.path, info.scale = task["adapter"], 1.0
    params.lora_adapters = [info]
    server = xllamacpp.Server(params)

    def ask(path: str, body: object) -> dict:
        words = json.dumps(body).encode()
        head = {"Content-Type": "application/json"}
        with urlopen(Request(server.listening_address + path, words, head)) as reply:
            return json.load(reply)

    found = []
    for scale in task["scales"]:
        body = {"prompt": task["ids"], "n_predict": 32, "temperature": 0, "return_tokens": True}
        body |= {"lora": [{"id": 0, "scale": scale}], "cache_prompt": False}
        found.append(ask("/completion", body)["tokens"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
