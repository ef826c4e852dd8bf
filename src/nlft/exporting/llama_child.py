"""Serve one GGUF file with llama.cpp, in a process of its own: what fails inside llama.cpp ends the whole process.

Reads one line of JSON: `model`, `context`, `key`, `threads`, `exact`. Writes the server's address as one line. Ends
when its input ends.
"""

import json
import os
import sys


def main() -> None:
    """Serve until the input ends."""
    out, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)  # llama.cpp's notes must not mix with the address
    given = json.loads(sys.stdin.readline())
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = given["model"]
    params.n_ctx = given["context"]
    params.hostnames, params.port, params.api_keys, params.ui = ["127.0.0.1"], 0, [given["key"]], False
    params.n_parallel, params.n_gpu_layers, params.warmup, params.fit_params = 1, 0, False, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = given["threads"]
    if given["exact"]:
        # By default llama.cpp keeps keys and values in 16 bits, which moves log-probabilities by some thousandths.
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    os.write(out, f"{server.listening_address}\n".encode())
    sys.stdin.read()


if __name__ == "__main__":
    main()
