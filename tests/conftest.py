"""For all tests: what they start treats a hangup and Ctrl-C as usual.

Under `nohup` the one is ignored, in the background of a script the other, and children inherit it.
"""

import signal

signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
