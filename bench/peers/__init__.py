"""The parts of ``bench/peers.py``: plans, tools, the server they all run on, and the trials."""
