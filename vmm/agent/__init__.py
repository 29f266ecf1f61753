"""What runs inside the guest: commands, files, terminals and identity, served over one listening port.

Standard library only, and nothing of the rest of the project: in the guest this directory is all there is. It is
started as `python3 -I -S -B -u DIRECTORY --root /sandbox`; `__main__` makes the directory a package under its own
name, so that the modules import each other relatively in the guest as well as here.
"""
