"""Train an adapter on examples, and measure honestly whether it works.

`lorakit.train` is in run.py: inputs.py reads and checks what it is given, replayed.py keeps what
the base can do, batches.py draws what each step learns from, loop.py takes the steps, measure.py
runs adapters as users will, bundle.py writes the folder. core/ alone computes with torch; data/
and evaluate/ need none.
"""
