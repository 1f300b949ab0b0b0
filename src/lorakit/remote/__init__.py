"""A model on a server that speaks OpenAI's API, as a Runtime.

server.py (where it is), waiting.py and connection.py (one request), event_stream.py and refusals.py
(what comes back), kinds.py (llama-server, vLLM, others), asking.py and answers.py (a request and
its answer as values), runtime.py (all of them together). It knows no Model.
"""
