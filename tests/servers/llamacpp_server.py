"""Runs in the environment of xllamacpp: llama.cpp's own server over a GGUF file, until it is killed.

python llamacpp_server.py MODEL.gguf PORT
"""

import sys
import time

import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.hostnames = ["127.0.0.1"]
params.port = int(sys.argv[2])
params.n_ctx = 4096
params.n_parallel = 1
params.cache_ram_mib = 512
params.cpuparams.n_threads = 2
params.cpuparams_batch.n_threads = 2
params.warmup = True
params.model_alias = {"smollm2"}
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
while True:
    time.sleep(3600)
