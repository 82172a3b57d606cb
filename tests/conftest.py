"""For all tests: what they start treats a hangup as usual, also under `nohup`."""

import signal

signal.signal(signal.SIGHUP, signal.SIG_DFL)
