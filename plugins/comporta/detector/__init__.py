"""The market detector: closed bars go in, alerts come out; the same code watches the market and is tested against its past.

The **light** part (``bars``, ``alert``, ``settings``, ``indicators``, ``volatility``, ``patterns``, ``processor``) needs the
standard library and numpy only: a process that watches the market stays under 50 MB. All that judges it is the heavy part.
"""
