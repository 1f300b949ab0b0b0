"""In a process of its own: llama.cpp's server over a GGUF base and GGUF adapters.

Takes "special" or "plain", which says whether special tokens are written into text, and the files;
prints the URL of its API, and runs until its standard input ends.
"""

import sys


def main() -> None:
    import xllamacpp

    text, base, *adapters = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path = base
    params.model_alias = {"demo"}
    params.n_ctx, params.n_parallel, params.warmup = 1024, 2, False
    params.cpuparams.n_threads = 1
    params.endpoint_slots = True
    params.special = text == "special"
    infos = []
    for path in adapters:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = path, 1.0
        infos.append(info)
    params.lora_adapters = infos
    server = xllamacpp.Server(params)
    print(f"{server.listening_address}/v1", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
