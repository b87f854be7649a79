"""The thin client: sends the command line to the server and does what the server asks of a terminal.

It imports the standard library alone, and of that only what a command needs: it is started far more often than it runs.
"""
