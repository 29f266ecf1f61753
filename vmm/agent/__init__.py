"""The agent inside the guest: it serves commands, files, terminals and identity over one listening port.

It imports only the standard library and nothing else of the project, because the guest has only this directory. It is
started as `python3 -I -S -B -u DIRECTORY --root /sandbox`; `__main__` makes the directory a package under its own
name, so that relative imports between the modules work in the guest as well as here.
"""
